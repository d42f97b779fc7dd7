//! What the kernel holds of apivip while no daemon runs: the rules go on working without it.

use crate::columns::{Cell, Columns};
use crate::dataplane::nft::reply::Observed;
use crate::dataplane::nft::socket::NftSocket;

const VIP_CHAIN: &str = "vip-";

/// Some lines for people.
pub(super) fn text() -> String {
    match NftSocket::open().and_then(|mut socket| socket.observe()) {
        Ok(observed) => describe(&observed),
        Err(error) => format!("no daemon answers, and nf_tables does not say what it holds: {error}\n"),
    }
}

fn describe(observed: &Observed) -> String {
    if !observed.exists {
        return "no daemon answers, and the kernel has no table inet apivip: nothing leads the virtual IP to apiservers\n"
            .to_owned();
    }
    let chains = observed.chains.iter().filter_map(|chain| chain.name.strip_prefix(VIP_CHAIN));
    let vips: Vec<&str> = chains.collect();
    let served = if vips.is_empty() { "no virtual IP".to_owned() } else { vips.join(", ") };
    let mut text = format!(
        "no daemon answers, but the kernel has table inet apivip, which goes on serving {served} as it did:\n\
         nobody asks these apiservers whether they live\n"
    );
    let mut columns = Columns::new(2, false);
    columns.push(["BACKEND", "CONNECTIONS"].map(Cell::from));
    for (name, count) in &observed.counters {
        columns.push([Cell::from(name.as_str()), Cell::from(count.packets.to_string())]);
    }
    text.push_str(&columns.to_string());
    text
}
