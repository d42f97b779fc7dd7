//! What is known of apiservers before the API has been read, and how that is brought together with what the API says.

pub mod gather;
pub mod seeds;
pub mod state;
