//! The real agent and collector, end to end.

mod access;
mod alerts;
mod answers;
mod bad_config;
mod bad_peers;
mod budget;
mod care;
mod cases;
mod chats;
mod contract;
mod deploy;
mod detection;
mod doctor;
mod durability;
mod elsewhere;
mod join;
mod moved;
mod offices;
mod packages;
mod page;
mod probes;
mod publik;
mod receivers;
mod reports;
mod telegram;
mod update;
