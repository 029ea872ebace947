//! How machines become agents, and stay so: an operator makes an offer, a machine spends it and gets a certificate, and renews that before it is over.

mod authority;
mod members;
mod service;

pub(crate) use authority::{Authority, Fingerprint, Name, Request, SERVER_FOR, SPIFFE};
pub(crate) use members::{Member, Members, Offer, Refused, enter_all};
pub(crate) use service::Service;
