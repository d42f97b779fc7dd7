//! The harness that proves apivip from the outside.

pub mod clients;
pub mod command;
pub mod control_plane;
pub mod daemon;

pub mod failover;
pub mod fault;
pub mod flows;
pub mod foreign;
pub mod forwarder;
pub mod kubeconfig;
pub mod lab;
pub mod load;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod nftfault;
pub mod packets;
pub mod pki;
pub mod process;
pub mod real;
pub mod refusal;
pub mod scenario;
pub mod sim;
pub mod sources;
pub mod streams;
pub mod tls;
