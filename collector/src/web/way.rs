//! The way to a target when its link had failed, in words and hop by hop.

use super::reader::Reader;
use super::words::Exact;
use denyut_detect::calendar::Zone;
use denyut_proto::{Path, Said};
use maud::{Markup, html};

/// How it ends, in words.
fn verdict(reader: &Reader, path: &Path) -> String {
    let to = path.to.to_string();
    let last = path.last();
    let from = last.map(|hop| hop.from.to_string()).unwrap_or_default();
    let key = match last.map(|hop| hop.said) {
        None => "path.nobody",
        Some(Said::Passed) => "path.lost",
        Some(Said::NoWay) => "path.no_way",
        Some(Said::Arrived) => "path.arrived",
    };
    reader.words.fill(key, &[("from", &from), ("to", &to)])
}

/// One way.
pub(super) fn show(reader: &Reader, path: &Path, zone: Zone) -> Markup {
    let words = reader.words;
    let time = words.time(path.at, reader.now, zone, Exact::Second);
    html! {
        div class="way" {
            p { strong { (words.fill("path.at", &[("time", &time)])) } " " (verdict(reader, path)) }
            @if !path.hops.is_empty() {
                ol {
                    @for hop in &path.hops {
                        @match hop {
                            Some(hop) => { li { code { (hop.from) } " " span class="soft" { (words.rtt(hop.rtt_us)) } } }
                            None => { li class="soft" { (words.say("path.silent")) } }
                        }
                    }
                }
            }
        }
    }
}
