//! One connection of a client, from its first moment to its last.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::dial::{Unserved, dial};
use super::order::order;
use super::relay::relay;
use super::shared::Shared;
use super::socket::Guarded;
use super::stats::{Origin, ResetCause};
use super::table::Ticket;
use crate::model::types::Backend;

/// Takes a connection up that came to a listener; a refused one is reset by being dropped.
pub(super) fn begin(
    shared: &Rc<Shared>,
    origin: Origin,
    local: &SocketAddr,
    stream: TcpStream,
    client: SocketAddr,
) {
    let downstream = Guarded::new(stream);
    shared.stats.count_accepted(origin);
    let Some(ticket) = Ticket::admit(shared, origin, client.ip()) else {
        return shared.stats.count_reset(ResetCause::ClientLimit);
    };
    // Without a route, which went in this very moment, there is nobody to dial.
    let order = shared.with_route(origin, local, |route| order(route, client.ip(), rand::random()));
    ticket.start(|ticket| carry(ticket, downstream, order.unwrap_or_default()));
}

async fn carry(ticket: Ticket, downstream: Guarded, order: Vec<Backend>) {
    // What a dial needs is large, and an idle connection must be small: it is let go before the bytes flow.
    let dialled = Box::pin(dial(ticket.shared(), order, &downstream)).await;
    match dialled {
        Ok((backend, upstream)) => {
            ticket.connected(backend);
            relay(downstream, upstream, ticket.shared(), ticket.id()).await;
        }
        Err(Unserved::NoBackend) => ticket.shared().stats.count_reset(ResetCause::NoBackend),
        Err(Unserved::Left) => {}
    }
}
