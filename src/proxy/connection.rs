//! One connection of a client, from its first moment until it is carried.

use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use super::carrier::Carried;
use super::dial::{Unserved, dial};
use super::order::order;
use super::shared::Shared;
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
    shared.stats.count_accepted(origin);
    if origin == Origin::Vip {
        shared.stats.guests().arrived(client);
    }
    let Some(ticket) = Ticket::admit(shared, origin, client.ip()) else {
        return shared.stats.count_reset(ResetCause::ClientLimit);
    };
    // Without a route, which went in this very moment, there is nobody to dial.
    let order = shared.with_route(origin, local, |route| order(route, client.ip(), rand::random()));
    tokio::task::spawn_local(find_backend(ticket, stream, order.unwrap_or_default()));
}

/// The task ends when the backend was found: an idle connection must be small.
async fn find_backend(ticket: Ticket, downstream: TcpStream, order: Vec<Backend>) {
    let shared = Rc::clone(ticket.shared());
    match dial(&shared, order, &downstream).await {
        Ok((backend, upstream)) => shared.carry(Carried::new(downstream, upstream, backend, ticket)),
        Err(Unserved::NoBackend) => shared.stats.count_reset(ResetCause::NoBackend),
        Err(Unserved::Left) => {}
    }
}
