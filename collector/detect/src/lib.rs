//! What the samples mean. Pure: no clock, no I/O, no storage; time comes with the events, and a tick is an event too, so that silence
//! can be a finding.
//!
//! ```text
//! samples    → link      a fold over the samples of one link in the order of time: downs, degradation     (late ones: judged again from a kept fold)
//! heartbeats → presence  a union of intervals: runs of a process, and the gaps between them
//! both       → office    troubles, incidents with cause and lineage, patterns        flap · calendar
//! offices    → common    many that go down together;  roam  two that take turns;  thing  what moves between them
//! all of it  → incident  held against what was said before: what differs is a revision
//! ```
//!
//! Each arrow is a function of what is known, however it came: the same events in any order end in the same incidents. [`detector`] keeps the state and says when
//! what is looked at.

pub mod calendar;
pub mod common;
pub mod detector;
pub mod flap;
pub mod incident;
pub mod link;
pub mod office;
pub mod params;
pub mod presence;
pub mod recorded;
pub mod roam;
pub mod settled;
pub mod thing;

pub use detector::{
    Agent, Archive, Detector, Event, Finding, Kept, Listening, Presence, Setup, Site, Status, Step,
};
pub use incident::{Cause, Incident};
pub use link::{Link, Phase};
pub use office::PatternKind;
pub use params::Params;
