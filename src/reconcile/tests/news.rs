//! News from which nothing follows.

use super::*;
use crate::model::health::State;
use crate::model::health::sample as health;

fn measured(base: &HealthView, micros: u64) -> HealthView {
    let mut view = base.clone();
    view.noticed = Instant::now();
    view.backends = BTreeMap::from([(backend(11), health(State::Healthy))]);
    view.backends.values_mut().for_each(|health| health.round_trip = Some(Duration::from_micros(micros)));
    view
}

#[test]
fn a_round_trip_that_changes_is_shown_and_nothing_else_happens() {
    with_reconciler(async |mut rig| {
        let base = view(1, ServiceStatus::Found, &[11]);
        let first = measured(&base, 500);
        rig.show(first.clone()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.reports.borrow_and_update();
        let (asked, commits) = (rig.kernel.asked(), rig.kernel.commits());
        let mut later = measured(&base, 9000);
        later.backends.values_mut().zip(first.backends.values()).for_each(|(later, first)| {
            (later.since, later.noticed) = (first.since, first.noticed);
        });
        rig.show(later).await;
        let report = rig.reports.borrow().clone();
        let shown = report.view.unwrap().backends[&backend(11)].round_trip;
        assert_eq!((report.phase, shown), (Phase::Programmed, Some(Duration::from_millis(9))));
        assert_eq!((rig.kernel.asked(), rig.kernel.commits()), (asked, commits));
        // Any other news is looked at.
        rig.publish(2, ServiceStatus::Found, &[11]).await;
        assert!(rig.kernel.asked() > asked);
    });
}
