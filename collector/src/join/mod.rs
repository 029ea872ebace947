//! How machines become agents, and stay so: an operator makes a token, a machine spends it and gets a certificate, and renews that before it is over.

mod authority;
pub(crate) mod command;
mod members;
mod service;

pub(crate) use authority::{Authority, Fingerprint, Name, Request, SERVER_FOR, SPIFFE};
pub(crate) use members::{Member, Members, Refused, Token, enter_all};
pub(crate) use service::Service;
