//! The types of `denyut.proto`, as generated. What a field means stands there.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "generated"
)]

tonic::include_proto!("denyut.v1");
