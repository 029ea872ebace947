//! A map of offices by their coordinates, and nothing else: dots make the islands. Equirectangular; north is up.

use crate::query::ShownState;
use maud::{Markup, PreEscaped, html};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Width of a map in its own units, and the most of its height.
const WIDTH: f64 = 960.0;
const HEIGHT_MOST: f64 = 640.0;
/// Room around the outermost dots.
const MARGIN: f64 = 14.0;
/// Calm offices nearer to each other than this are one dot.
const GRID: f64 = 3.0;
/// The least stretch that is shown, in degrees: a single office is no point on nothing.
const LEAST: f64 = 0.2;
/// With fewer dots than these each is larger.
const FEW: usize = 200;
/// Offices in trouble with a dot of their own, at most.
const MARKS_MOST: usize = 300;

/// An office on a map.
#[derive(Debug, Clone)]
pub(super) struct Dot {
    /// Latitude and longitude in degrees.
    pub(super) place: (f64, f64),
    pub(super) state: ShownState,
    /// Where it leads to.
    pub(super) to: String,
    pub(super) name: String,
}

/// Two offices that take turns.
#[derive(Debug, Clone)]
pub(super) struct Tie {
    pub(super) from: (f64, f64),
    pub(super) to: (f64, f64),
}

/// From degrees to the map's own units.
#[derive(Debug, Clone, Copy)]
struct Frame {
    west: f64,
    north: f64,
    scale: f64,
    width: f64,
    height: f64,
}

impl Frame {
    fn around(places: impl Iterator<Item = (f64, f64)> + Clone) -> Option<Self> {
        let least = |all: &mut dyn Iterator<Item = f64>| all.reduce(f64::min);
        let most = |all: &mut dyn Iterator<Item = f64>| all.reduce(f64::max);
        let south = least(&mut places.clone().map(|(latitude, _)| latitude))?;
        let north = most(&mut places.clone().map(|(latitude, _)| latitude))?;
        let west = least(&mut places.clone().map(|(_, longitude)| longitude))?;
        let east = most(&mut places.map(|(_, longitude)| longitude))?;
        let wider = |low: f64, high: f64| {
            let lacks = (LEAST - (high - low)).max(0.0) / 2.0;
            (low - lacks, high + lacks)
        };
        let ((south, north), (west, east)) = (wider(south, north), wider(west, east));
        let scale = ((WIDTH - 2.0 * MARGIN) / (east - west))
            .min((HEIGHT_MOST - 2.0 * MARGIN) / (north - south));
        Some(Self {
            west,
            north,
            scale,
            width: ((east - west) * scale + 2.0 * MARGIN).round(),
            height: ((north - south) * scale + 2.0 * MARGIN).round(),
        })
    }

    fn at(&self, (latitude, longitude): (f64, f64)) -> (f64, f64) {
        (
            (longitude - self.west) * self.scale + MARGIN,
            (self.north - latitude) * self.scale + MARGIN,
        )
    }
}

/// Whether an office has a dot of its own.
fn is_marked(state: ShownState) -> bool {
    matches!(
        state,
        ShownState::Down | ShownState::Unobserved | ShownState::Suspect | ShownState::Recovering
    )
}

/// The map; nothing without a place. The last dots lie on top.
pub(super) fn map(dots: &[Dot], ties: &[Tie], label: &str) -> Markup {
    let Some(frame) = Frame::around(dots.iter().map(|dot| dot.place)) else {
        return html! {};
    };
    let (mut calm, mut unknown) = (String::new(), String::new());
    let mut taken = BTreeSet::new();
    for dot in dots.iter().filter(|dot| !is_marked(dot.state)) {
        let is_unknown = dot.state == ShownState::Unknown;
        let (x, y) = frame.at(dot.place);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "some hundreds, and `as` saturates"
        )]
        let cell = ((x / GRID).round() as i32, (y / GRID).round() as i32);
        if taken.insert((cell, is_unknown)) {
            // Writing to a string does not fail.
            write!(
                if is_unknown { &mut unknown } else { &mut calm },
                "M{} {}h0",
                f64::from(cell.0) * GRID,
                f64::from(cell.1) * GRID
            )
            .ok();
        }
    }
    let mut marked: Vec<&Dot> = dots.iter().filter(|dot| is_marked(dot.state)).collect();
    marked.sort_by_key(|dot| dot.state);
    let left = marked.len().saturating_sub(MARKS_MOST);
    let (width, height) = (frame.width, frame.height);
    let mut lines = String::new();
    for tie in ties {
        let ((x1, y1), (x2, y2)) = (frame.at(tie.from), frame.at(tie.to));
        write!(lines, "M{x1:.0} {y1:.0}L{x2:.0} {y2:.0}").ok();
    }
    html! {
        svg class="map" role="group" aria-label=(label) viewBox={ "0 0 " (width) " " (height) } {
            @for (class, path) in [("unknown", unknown), ("calm", calm)] {
                @if !path.is_empty() { path class={ (class) @if taken.len() < FEW { " few" } } d=(path) {} }
            }
            @if !lines.is_empty() { path class="tie" d=(lines) {} }
            @for dot in marked.into_iter().skip(left) {
                @let (x, y) = frame.at(dot.place);
                a href=(dot.to) aria-label=(dot.name) {
                    circle class=(dot.state.as_str()) cx=(PreEscaped(format!("{x:.0}"))) cy=(PreEscaped(format!("{y:.0}"))) r="6" { title { (dot.name) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(place: (f64, f64), state: ShownState) -> Dot {
        Dot {
            place,
            state,
            to: "/kantor/36.73.02".to_owned(),
            name: "<Serang>".to_owned(),
        }
    }

    #[test]
    fn a_map_has_the_shape_of_the_country() {
        let dots = [
            dot((5.5, 95.3), ShownState::Up),
            dot((-8.5, 140.4), ShownState::Up),
            dot((-6.1, 106.15), ShownState::Down),
            // As good as the same.
            dot((5.501, 95.301), ShownState::Up),
            dot((5.501, 95.301), ShownState::Unknown),
        ];
        let PreEscaped(svg) = map(&dots, &[], "x");
        assert!(svg.contains("viewBox=\"0 0 960 317\""), "{svg}");
        assert_eq!(svg.matches("h0").count(), 3, "{svg}");
        assert!(svg.contains("class=\"unknown few\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("&lt;Serang&gt;"));
    }

    #[test]
    fn one_office_is_in_the_middle_and_none_is_no_map() {
        let PreEscaped(svg) = map(&[dot((-6.1, 106.1), ShownState::Down)], &[], "x");
        assert!(
            svg.contains("viewBox=\"0 0 640 640\"") && svg.contains("cx=\"320\""),
            "{svg}"
        );
        assert_eq!(map(&[], &[], "x").0, "");
    }
}
