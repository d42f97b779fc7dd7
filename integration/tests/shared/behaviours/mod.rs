//! What the daemon and its tests rely on of an apiserver, checked on the wire of the simulation and of the real one.
//!
//! Three apiservers: the first is asked, the second is stopped with SIGTERM, the third is killed and started again. What takes
//! long runs beside the rest. The module of each behaviour says what kube-apiserver 1.37.2 was seen to do.

mod answers;
mod ends;
mod idle;
mod slices;
mod tls;
mod watches;

use std::thread;

use anyhow::{Context, Result, anyhow};
use integration::control_plane::ControlPlane;
use integration::lab::Lab;
use integration::wire;

/// The Service, as the daemon lists and watches it.
const SERVICES: &str = "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes";
/// Its slices, as the daemon lists and watches them.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?\
    labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";

/// Fails unless the apiservers of this control plane, which publishes all of them, behave as the list has it. The longest of
/// the simulation's clocks are tested without waiting for them, beside them.
pub(crate) fn are_met(lab: &Lab, plane: &mut ControlPlane<'_>) -> Result<()> {
    let (from, to_the_end) = (lab.node(), !plane.is_simulated());
    let first = plane.wire(1);
    thread::scope(|scope| {
        let idle = scope.spawn(|| wire::inside(from, || idle::connections_end(&first, to_the_end)));
        let context = "strangers, PINGs and refusals";
        wire::inside(from, || answers::are_those_of_kubernetes(&first)).context(context)?;
        wire::inside(from, || tls::offers(&first)).context("TLS")?;
        slices::are_those_of_kubernetes(lab, plane).context("EndpointSlices")?;
        watches::follow(lab, plane).context("lists and watches")?;
        ends::killed(lab, plane, 3).context("SIGKILL")?;
        plane.start_again(3)?;
        plane.forget_history(3)?;
        let third = plane.wire(3);
        wire::inside(from, || watches::too_old(&third)).context("a version that is too old")?;
        ends::terminated(lab, plane, 2).context("SIGTERM")?;
        idle.join()
            .map_err(|_| anyhow!("the thread of idle connections panicked"))?
            .context("idle connections")
    })
}
