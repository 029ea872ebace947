//! What reads bytes that a disk or the network gave back, for `tests/fuzz` to try: whatever they are, it refuses them or reads them.

use crate::ingest::Proof;
use crate::join::{Authority, Member, Offer, Request};
use crate::registry::Introduction;
use crate::{access, calendar, config, keys, report, sites, villages};
use denyut_detect::{Agent, Incident, Link};
use denyut_detect::{
    detector::Sight, link::Fold, link::Past, presence::Runs, recorded, thing::Sightings,
};
use rustls::pki_types::CertificateDer;
use std::path::Path;

/// A request for a certificate, from whoever has an invitation.
pub fn request(der: &[u8]) {
    Request::read(der).ok();
}

/// A client's certificate.
pub fn certificate(der: &[u8]) {
    Proof::of(Some(&CertificateDer::from(der)));
}

/// An authority's certificate and key, in these files.
pub fn authority(certificate: &Path, key: &Path) {
    Authority::read(certificate, key).ok();
}

/// Files of offices, of holidays and of recorded checks.
pub fn tables(text: &str) {
    sites::parse(text.as_bytes()).ok();
    villages::parse(text.as_bytes()).ok();
    calendar::csv(text.as_bytes()).ok();
    calendar::ics(text).ok();
    recorded::parse(text.as_bytes()).ok();
}

/// The text of a configuration; the files that it names are in `folder`.
pub fn config(text: &str, folder: &Path) {
    config::Config::parse(text, folder).ok();
}

/// What a chat answers, its status first; and what Telegram says that somebody did.
pub fn answers(bytes: &[u8]) {
    let Some((status, rest)) = bytes.split_first_chunk() else {
        return;
    };
    if let Ok(text) = std::str::from_utf8(rest) {
        crate::alert::read_answer(u16::from_be_bytes(*status), text);
        crate::alert::read_update(text);
    }
}

/// Values of the state.
pub fn state(bytes: &[u8]) {
    keys::unpack::<Agent>("agent", bytes).ok();
    keys::unpack::<Link>("link", bytes).ok();
    keys::unpack::<Fold>("fold", bytes).ok();
    keys::unpack::<Runs>("runs", bytes).ok();
    keys::unpack::<Sightings>("sightings", bytes).ok();
    serde_json::from_slice::<Past>(bytes).ok();
    serde_json::from_slice::<Sight>(bytes).ok();
    serde_json::from_slice::<Incident>(bytes).ok();
    serde_json::from_slice::<Introduction>(bytes).ok();
    serde_json::from_slice::<Offer>(bytes).ok();
    serde_json::from_slice::<Member>(bytes).ok();
    access::read(bytes);
    report::read(bytes);
    serde_json::from_slice::<crate::register::Registration>(bytes).ok();
    serde_json::from_slice::<crate::case::Step>(bytes).ok();
    serde_json::from_slice::<crate::alert::Message>(bytes).ok();
    serde_json::from_slice::<crate::alert::Silence>(bytes).ok();
    keys::unpack::<crate::alert::Group>("group", bytes).ok();
}
