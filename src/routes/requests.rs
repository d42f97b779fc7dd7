//! Requests to rtnetlink: what is sent, the thread that waits for the kernel, and what an answer means.
//!
//! The kernel works on a request while it is sent, and on a dump while it is read. Before 6.9 both wait for the RTNL lock,
//! which other programs may hold for seconds; the runtime's thread must not wait with them. So requests go over a socket
//! that gets no events, on a thread of its own.
//!
//! In: requests. Out: an answer within [`TIMEOUT`], or a [`HostError`]. After an error that is not the kernel's answer, the
//! next request goes over another socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_sys::AsyncSocket;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::dataplane::{DataplaneError, KernelErrorKind};
use crate::model::types::Family;

/// Marks our routes (`ip route show proto 97`). 97 is free in the kernel's rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 97;

/// An answer takes some 20 us. Longer than the lock is held while a large node's devices come and go; a request that timed
/// out is repeated later.
const TIMEOUT: Duration = Duration::from_secs(3);
/// So many threads may hang in the kernel. While they do, others would hang as well.
const MAX_THREADS: usize = 3;
/// A thread's stack: it runs one small task.
const STACK: usize = 256 << 10;

pub(super) const ENOENT: i32 = 2;
pub(super) const ESRCH: i32 = 3;
pub(super) const EACCES: i32 = 13;
pub(super) const EEXIST: i32 = 17;
pub(super) const EINVAL: i32 = 22;
pub(super) const EAFNOSUPPORT: i32 = 97;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// Why routes or addresses could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct HostError {
    pub(crate) action: String,
    #[source]
    pub(crate) source: io::Error,
    /// Part of the request was executed.
    pub(crate) partial: bool,
}

impl From<HostError> for DataplaneError {
    fn from(error: HostError) -> Self {
        Self::kernel(KernelErrorKind::Routes { partial: error.partial }, error)
    }
}

/// The kernel's error with its errno; without an errno, why there is no answer.
fn kernel_error(error: &rtnetlink::Error) -> io::Error {
    let code = match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code()),
        rtnetlink::Error::UnexpectedMessage(message) => match &message.payload {
            NetlinkPayload::Error(error) => Some(error.raw_code()),
            _ => None,
        },
        _ => None,
    };
    match code {
        Some(code) => io::Error::from_raw_os_error(code.saturating_abs()),
        None => io::Error::other(error.to_string()),
    }
}

/// No route; a route of type unreachable, prohibit or blackhole; or no such address family on this node.
pub(super) fn is_unroutable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL | EAFNOSUPPORT))
}

pub(super) fn failed(action: impl Into<String>, source: io::Error) -> HostError {
    HostError { action: action.into(), source, partial: false }
}

pub(super) fn invalid(ip: IpAddr, error: &dyn std::fmt::Display) -> HostError {
    failed(format!("describe the route to {ip}"), io::Error::other(error.to_string()))
}

/// Opens sockets as they are needed, in the network namespace of the thread that asks.
#[derive(Default)]
pub(crate) struct Requests {
    socket: Mutex<Option<Handle>>,
    threads: Arc<AtomicUsize>,
}

impl Requests {
    /// Opens the first socket.
    pub fn open() -> Result<Self, HostError> {
        let requests = Self::default();
        requests.handle().map_err(|e| failed("open a netlink socket to routes", e))?;
        Ok(requests)
    }

    /// Sends a request, and waits for the answer for [`TIMEOUT`] at most. A change that timed out may still be made.
    pub async fn send<T, F>(&self, request: impl FnOnce(Handle) -> F) -> io::Result<T>
    where
        F: Future<Output = Result<T, rtnetlink::Error>>,
    {
        let outcome = match timeout(TIMEOUT, request(self.handle()?)).await {
            Ok(outcome) => outcome.map_err(|error| kernel_error(&error)),
            Err(_) => Err(timed_out()),
        };
        if outcome.as_ref().is_err_and(|error| error.raw_os_error().is_none()) {
            *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        outcome
    }

    fn handle(&self) -> io::Result<Handle> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = socket.as_ref() {
            return Ok(handle.clone());
        }
        let running = ThreadGuard::count(&self.threads).ok_or_else(timed_out)?;
        let (opens, opened) = mpsc::sync_channel(1);
        thread::Builder::new().name("rtnetlink".to_owned()).stack_size(STACK).spawn(move || {
            let _running = running;
            serve(&opens);
        })?;
        let handle = opened.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(socket.insert(handle).clone())
    }
}

/// Opens a socket, and serves requests until its handles are dropped.
fn serve(opens: &mpsc::SyncSender<io::Result<Handle>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(opens.send(Err(error))),
    };
    runtime.block_on(async {
        match rtnetlink::new_connection() {
            Ok((mut connection, handle, _)) => {
                // Without it the kernel ignores the filter of a dump, and would list the full routing table each time.
                let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
                drop(opens.send(Ok(handle)));
                connection.await;
            }
            Err(error) => drop(opens.send(Err(error))),
        }
    });
}

/// Runs something that may wait for the RTNL lock on a thread of its own, and waits for [`TIMEOUT`] at most.
pub(super) async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (result_in, result) = oneshot::channel();
    thread::Builder::new().name("devices".to_owned()).stack_size(STACK).spawn(move || {
        // The receiver is gone after the timeout.
        let _ = result_in.send(work());
    })?;
    match timeout(TIMEOUT, result).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        Err(_) => Err(timed_out()),
    }
}

fn timed_out() -> io::Error {
    let text = format!("no answer from the kernel's network configuration within {} s", TIMEOUT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Counts a thread for as long as it runs.
struct ThreadGuard(Arc<AtomicUsize>);

impl ThreadGuard {
    fn count(threads: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |running: usize| (running < MAX_THREADS).then_some(running + 1);
        threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(threads)))
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A route to one address.
pub(super) fn host_route(to: IpAddr) -> Result<RouteMessageBuilder<IpAddr>, HostError> {
    let len = if to.is_ipv4() { 32 } else { 128 };
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, len).map_err(|e| invalid(to, &e))
}

/// The kernel refuses a lookup with any of the fields that a route has besides.
pub(super) fn lookup_request(to: IpAddr) -> Result<RouteMessage, HostError> {
    let mut request = host_route(to)?.build();
    request.header.table = 0;
    request.header.protocol = RouteProtocol::Unspec;
    request.header.scope = RouteScope::Universe;
    request.header.kind = RouteType::Unspec;
    Ok(request)
}

/// The same for packets that have this source address already.
pub(super) fn lookup_from(to: IpAddr, from: IpAddr) -> Result<RouteMessage, HostError> {
    let mut request = lookup_request(to)?;
    request.header.source_prefix_length = if from.is_ipv4() { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Source(from.into()));
    Ok(request)
}

/// The next hop, if it is not the destination itself.
pub(super) fn gateway(route: &RouteMessage) -> Option<RouteAddress> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(address) => Some(address.clone()),
        _ => None,
    })
}

/// Only our own routes, of every table; a kernel before 4.20 ignores the filter and lists all.
fn dump_request(family: Family) -> RouteMessage {
    let own = RouteProtocol::Other(ROUTE_PROTOCOL);
    let mut request = match family {
        Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().protocol(own).build(),
        Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().protocol(own).build(),
    };
    request.header.table = 0;
    request.header.scope = RouteScope::Universe;
    request.header.kind = RouteType::Unspec;
    request
}

pub(super) fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

pub(super) fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

pub(super) fn output_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(super) fn same_path(ours: &RouteMessage, wanted: &RouteMessage) -> bool {
    preferred_source(ours) == preferred_source(wanted) && output_interface(ours) == output_interface(wanted)
}

/// Our routes, of every table and type.
pub(super) async fn own_routes(requests: &Requests) -> Result<Vec<RouteMessage>, HostError> {
    let mut own = Vec::new();
    for family in [Family::V4, Family::V6] {
        let request = dump_request(family);
        let listed =
            requests.send(|handle| handle.route().get(request).execute().try_collect::<Vec<_>>()).await;
        match listed {
            Ok(listed) => own.extend(
                listed.into_iter().filter(|r| r.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)),
            ),
            // A kernel without IPv6 has no IPv6 routes.
            Err(error) if family == Family::V6 && error.raw_os_error().is_some() => {}
            Err(error) => return Err(failed("list the node's routes", error)),
        }
    }
    Ok(own)
}

/// Our routing rules.
pub(super) async fn own_rules(requests: &Requests) -> Result<Vec<RuleMessage>, HostError> {
    let own = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    let mut rules = Vec::new();
    for family in [Family::V4, Family::V6] {
        let listed = routing_rules(requests, family).await?;
        rules.extend(listed.into_iter().filter(|rule| rule.attributes.contains(&own)));
    }
    Ok(rules)
}

/// All routing rules. A kernel without policy routing, or without IPv6, has none.
pub(super) async fn routing_rules(
    requests: &Requests,
    family: Family,
) -> Result<Vec<RuleMessage>, HostError> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let listed = requests.send(|handle| handle.rule().get(version).execute().try_collect::<Vec<_>>()).await;
    match listed {
        Ok(listed) => Ok(listed),
        Err(error) if error.raw_os_error().is_some() => Ok(Vec::new()),
        Err(error) => Err(failed("list the node's routing rules", error)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    async fn links(requests: &Requests) -> io::Result<usize> {
        let listed = requests.send(|handle| handle.link().get().execute().try_collect::<Vec<_>>()).await;
        listed.map(|links| links.len())
    }

    #[tokio::test(start_paused = true)]
    async fn request_without_answer_times_out_and_the_next_uses_another_socket() {
        let requests = Requests::open().unwrap();
        let before = Instant::now();
        let lost = requests.send(|_| pending::<Result<(), rtnetlink::Error>>()).await.unwrap_err();
        assert_eq!((lost.kind(), before.elapsed()), (io::ErrorKind::TimedOut, TIMEOUT));
        assert!(requests.socket.lock().unwrap().is_none());
        tokio::time::resume();
        assert!(links(&requests).await.unwrap() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_waits_for_the_rtnl_lock_times_out() {
        let (release, held) = mpsc::channel::<()>();
        let before = Instant::now();
        let waits = on_own_thread(move || {
            let _ = held.recv();
            Ok(())
        });
        let late = waits.await.unwrap_err();
        assert_eq!((late.kind(), before.elapsed()), (io::ErrorKind::TimedOut, TIMEOUT));
        drop(release);
        tokio::time::resume();
        assert_eq!(on_own_thread(|| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn kernel_error_keeps_the_socket() {
        let requests = Requests::open().unwrap();
        let none = requests
            .send(|handle| handle.link().get().match_index(0x7fff_fff0).execute().try_collect::<Vec<_>>());
        assert_eq!(none.await.unwrap_err().raw_os_error(), Some(19), "ENODEV");
        assert!(requests.socket.lock().unwrap().is_some());
    }

    #[tokio::test]
    async fn request_fails_while_all_threads_hang_in_the_kernel() {
        let requests = Requests::default();
        let hanging: Vec<ThreadGuard> =
            (0..MAX_THREADS).map(|_| ThreadGuard::count(&requests.threads).unwrap()).collect();
        assert_eq!(links(&requests).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(hanging);
        assert!(links(&requests).await.unwrap() > 0);
    }
}
