//! All scenes over many seeds, ours beside the others, as one table.

use crate::play::{Played, play};
use crate::scenes::{KINDS, draw};
use crate::score::{BASELINES, Score, baseline, ours};
use clap::Args;
use clap::builder::PossibleValuesParser;
use denyut_detect::incident::Facts;
use denyut_proto::OfficeCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Args)]
pub(crate) struct Run {
    /// How many seeds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them. Thresholds were tried on seeds below 1000
    #[arg(long, default_value_t = 1000)]
    first_seed: u64,
    /// Only these kinds of scenes
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(KINDS))]
    kinds: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A mean over seeds with the half width of its 95 % confidence interval.
#[derive(Debug, Clone, Copy, Serialize)]
struct Mean {
    mean: f64,
    within: f64,
}

impl Mean {
    fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / (n - 1.0).max(1.0);
        // Student's t for 20 seeds; a little too wide for more.
        Some(Self {
            mean,
            within: 2.1 * (variance / n).sqrt(),
        })
    }
}

/// What one judge made of one kind.
#[derive(Debug, Serialize)]
struct Line {
    kind: String,
    judge: String,
    /// Which episodes the next three are of.
    of: &'static str,
    precision: Option<Mean>,
    recall: Option<Mean>,
    f1: Option<Mean>,
    delay_p50_s: Option<f64>,
    delay_p95_s: Option<f64>,
    pages_per_episode: Option<Mean>,
    false_pages_per_office_month: Option<Mean>,
    cause_right_at_first: Option<f64>,
    guesses: Option<f64>,
    guesses_right: Option<f64>,
    cause_right: Option<Mean>,
    retracted_share: Option<f64>,
    incidents_per_common_cause: Option<f64>,
    false_common_causes: Option<f64>,
    false_roaming: Option<f64>,
    swaps_until_named: Option<f64>,
    swaps_until_thing_named: Option<f64>,
    moves_named: Option<f64>,
    false_moves: Option<f64>,
    same_in_any_order: Option<f64>,
    ns_per_sample: Option<f64>,
}

/// Which episodes a kind is about.
fn episodes(kind: &str) -> &'static str {
    match kind {
        "flapping" => "flapping",
        "relapse" => "relapse",
        "clone" => "clone",
        "degraded" => "degraded",
        "see-saw" => "roaming",
        "regional" | "central" => "common",
        _ => "outage",
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn each(scores: &[Score], value: impl Fn(&Score) -> Option<f64>) -> Option<Mean> {
    Mean::of(&scores.iter().filter_map(value).collect::<Vec<_>>())
}

impl Line {
    fn of(kind: &str, judge: &str, of: &'static str, scores: &[Score]) -> Self {
        let mut all = Score::default();
        for score in scores {
            all.merge(score);
        }
        let name = |what: &str| format!("{of} {what}");
        let (tp, fp, hit, truth) = (name("tp"), name("fp"), name("hit"), name("truth"));
        // Of shared causes and groups what was found truly is counted by what is true.
        let tp = if matches!(of, "common" | "roaming") {
            hit.clone()
        } else {
            tp
        };
        let precision = |score: &Score| ratio(score.of(&tp), score.of(&tp) + score.of(&fp));
        let recall = |score: &Score| ratio(score.of(&hit), score.of(&truth));
        let f1 = |score: &Score| {
            let (p, r) = (precision(score)?, recall(score)?);
            Some(if p + r > 0.0 {
                2.0 * p * r / (p + r)
            } else {
                0.0
            })
        };
        all.delays.sort_by(f64::total_cmp);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let quantile = |q: f64| {
            all.delays
                .get(((all.delays.len() as f64 - 1.0) * q).round() as usize)
                .copied()
        };
        Self {
            kind: kind.to_owned(),
            judge: judge.to_owned(),
            of,
            precision: each(scores, precision),
            recall: each(scores, recall),
            f1: each(scores, f1),
            delay_p50_s: quantile(0.5),
            delay_p95_s: quantile(0.95),
            pages_per_episode: each(scores, |score| {
                ratio(score.of("pages true"), score.of("episodes"))
            }),
            false_pages_per_office_month: each(scores, |score| {
                ratio(score.of("pages false"), score.of("office months"))
            }),
            cause_right_at_first: ratio(all.of("cause right at first"), all.of("cause all")),
            guesses: ratio(all.of("guesses"), all.of("cause all")),
            guesses_right: ratio(all.of("guesses right"), all.of("guesses")),
            cause_right: each(scores, |score| {
                ratio(score.of("cause right"), score.of("cause all"))
            }),
            retracted_share: ratio(all.of("retracted"), all.of("incidents")),
            incidents_per_common_cause: ratio(all.of("common incidents"), all.of("common truth")),
            false_common_causes: all.counts.get("common fp").copied(),
            false_roaming: all
                .counts
                .contains_key("samples")
                .then(|| all.of("roaming fp")),
            swaps_until_named: ratio(all.of("swaps until named"), all.of("groups named")),
            swaps_until_thing_named: ratio(
                all.of("swaps until thing named"),
                all.of("things named"),
            ),
            moves_named: ratio(all.of("moved hit"), all.of("moved truth")),
            false_moves: all
                .counts
                .contains_key("samples")
                .then(|| all.of("moved fp")),
            same_in_any_order: ratio(all.of("same in any order"), all.of("orders")),
            ns_per_sample: ratio(all.of("ns"), all.of("samples")),
        }
    }
}

/// What is true in the end of every incident.
fn truth(played: &Played) -> Vec<(Option<OfficeCode>, Facts)> {
    let real = played
        .incidents
        .values()
        .filter(|incident| !incident.retracted);
    let mut all: Vec<_> = real
        .map(|incident| (incident.office.clone(), incident.facts.clone()))
        .collect();
    all.sort_by_key(|(office, facts)| (office.clone(), facts.opened_ms));
    all
}

/// The same scene delivered in another order, nothing lost: the same incidents?
fn same_in_any_order(seed: u64) -> anyhow::Result<bool> {
    let order = |jumbled: bool| -> anyhow::Result<Played> {
        let mut scene = draw("backfill", seed);
        scene
            .offices
            .iter_mut()
            .for_each(|office| (office.life.jumbled, office.life.loses) = (jumbled, false));
        play(&mut scene)
    };
    Ok(truth(&order(true)?) == truth(&order(false)?))
}

type Scored = BTreeMap<(usize, usize), Vec<(u64, Score)>>;

impl Run {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let kinds: Vec<&str> = KINDS
            .into_iter()
            .filter(|kind| self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind))
            .collect();
        let jobs: Vec<(usize, u64)> = (0..kinds.len())
            .flat_map(|kind| {
                (self.first_seed..self.first_seed + self.seeds).map(move |seed| (kind, seed))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let done: Mutex<Scored> = Mutex::default();
        let work = || -> anyhow::Result<()> {
            while let Some((kind, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut scene = draw(kinds[*kind], *seed);
                let played = play(&mut scene)?;
                let mut scores = vec![ours(kinds[*kind], &scene, &played)];
                if kinds[*kind] == "backfill" {
                    scores[0].counts.insert("orders", 1.0);
                    scores[0].counts.insert(
                        "same in any order",
                        f64::from(u8::from(same_in_any_order(*seed)?)),
                    );
                }
                if is_compared(kinds[*kind]) {
                    scores.extend(BASELINES.iter().map(|name| baseline(name, &scene)));
                }
                drop(scene);
                let mut done = done
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                for (judge, score) in scores.into_iter().enumerate() {
                    done.entry((*kind, judge)).or_default().push((*seed, score));
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..std::thread::available_parallelism().map_or(1, usize::from))
                .map(|_| scope.spawn(work))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let mut lines = Vec::new();
        let done = done
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for ((kind, judge), mut scores) in done {
            scores.sort_by_key(|(seed, _)| *seed);
            let scores: Vec<Score> = scores.into_iter().map(|(_, score)| score).collect();
            let name = if judge == 0 {
                "denyut"
            } else {
                BASELINES[judge - 1]
            };
            let of = episodes(kinds[kind]);
            if of != "outage" {
                lines.push(Line::of(kinds[kind], name, "outage", &scores));
            }
            lines.push(Line::of(kinds[kind], name, of, &scores));
        }
        if self.json {
            println!("{}", serde_json::to_string(&lines)?);
        } else {
            print(&lines, self.seeds);
        }
        Ok(())
    }
}

/// Kinds that the other products' rules run on too.
fn is_compared(kind: &str) -> bool {
    matches!(
        kind,
        "loss" | "outage" | "flapping" | "relapse" | "power" | "closed"
    )
}

fn print(lines: &[Line], seeds: u64) {
    let share = |mean: Option<Mean>| {
        mean.map_or("–".to_owned(), |mean| {
            format!("{:.3}±{:.3}", mean.mean, mean.within)
        })
    };
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
    };
    println!("{seeds} seeds; mean ± 95 % confidence. Causes: at first, and in the end.");
    println!(
        "{:<10} {:<15} {:<9} {:>12} {:>12} {:>12} {:>6} {:>6} {:>12} {:>14} {:>6} {:>12} {:>6} {:>6}",
        "scene",
        "judge",
        "of",
        "precision",
        "recall",
        "F1",
        "p50 s",
        "p95 s",
        "pages/ep.",
        "false/off.-mo.",
        "cause",
        "cause",
        "retr.",
        "ns"
    );
    for line in lines {
        println!(
            "{:<10} {:<15} {:<9} {:>12} {:>12} {:>12} {:>6} {:>6} {:>12} {:>14} {:>6} {:>12} {:>6} {:>6}",
            line.kind,
            line.judge,
            line.of,
            share(line.precision),
            share(line.recall),
            share(line.f1),
            number(line.delay_p50_s, 0),
            number(line.delay_p95_s, 0),
            share(line.pages_per_episode),
            share(line.false_pages_per_office_month),
            number(line.cause_right_at_first, 2),
            share(line.cause_right),
            number(line.retracted_share, 2),
            number(line.ns_per_sample, 0),
        );
    }
    let ours = || {
        lines
            .iter()
            .filter(|line| line.judge == "denyut" && line.of == episodes(&line.kind))
    };
    for line in ours() {
        if let Some(count) = line.incidents_per_common_cause {
            println!("{}: {count:.2} incidents per shared outage", line.kind);
        }
        if let Some(swaps) = line.swaps_until_named {
            println!("{}: named by its times after {swaps:.1} swaps", line.kind);
        }
        if let Some(swaps) = line.swaps_until_thing_named {
            println!("{}: named by the thing after {swaps:.1} swaps", line.kind);
        }
        if let Some(share) = line.moves_named {
            println!(
                "{}: pairs between which a thing moved, and it was named: {:.1} %",
                line.kind,
                share * 100.0
            );
        }
        if let (Some(part), Some(right)) = (line.guesses, line.guesses_right) {
            println!(
                "{}: {:.0} % of the causes were guessed before anything was delivered, {:.0} % of them rightly",
                line.kind,
                part * 100.0,
                right * 100.0
            );
        }
        if let Some(same) = line.same_in_any_order {
            println!(
                "{}: the same incidents in another order of delivery: {:.1} %",
                line.kind,
                same * 100.0
            );
        }
    }
    let total = |value: fn(&Line) -> Option<f64>| ours().filter_map(value).sum::<f64>();
    println!(
        "common causes that were none: {:.0}; groups said to take turns that do not: {:.0}; things said to have moved that did not: {:.0}",
        total(|line| line.false_common_causes),
        total(|line| line.false_roaming),
        total(|line| line.false_moves)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the figures promise, on one seed of the kinds that are quick to play; all of them on twenty are `evaluate run`'s.
    #[test]
    fn the_scenes_are_judged_as_promised() {
        for kind in [
            "outage", "flapping", "regional", "central", "clone", "closed",
        ] {
            let mut scene = draw(kind, 2_000);
            scene.seconds = scene.seconds.min(2 * 86_400);
            let cut = |span: &crate::office::Span| span.end < scene.seconds;
            scene.truth.outages.retain(|(_, _, span, _)| cut(span));
            scene.truth.flapping.retain(|(_, span)| cut(span));
            scene.truth.common.retain(|(_, span)| cut(span));
            let played = play(&mut scene).expect("plays");
            let score = ours(kind, &scene, &played);
            let all = |hit: &str, truth: &str| {
                assert!(score.of(hit) >= score.of(truth), "{kind}: {score:?}");
            };
            all("outage hit", "outage truth");
            all("flapping hit", "flapping truth");
            all("common hit", "common truth");
            all("clone hit", "clone truth");
            assert!(score.of("pages false") <= 1.0, "{kind}: {score:?}");
            assert!(
                score.of("cause right") >= 0.95 * score.of("cause all"),
                "{kind}: {score:?}"
            );
            assert!(score.of("roaming fp") < 1.0, "{kind}: {score:?}");
            assert!(score.of("moved fp") < 1.0, "{kind}: {score:?}");
        }
    }

    #[test]
    fn scenes_are_the_same_for_the_same_seed_and_others_for_another() {
        for kind in KINDS {
            let truth = |seed| format!("{:?}", draw(kind, seed).truth);
            assert_eq!(truth(1), truth(1));
            let has_truth = truth(1) != format!("{:?}", crate::scenes::Truth::default());
            assert!(!has_truth || truth(1) != truth(2), "{kind}");
        }
    }

    #[test]
    fn the_order_of_delivery_does_not_matter() {
        assert!(same_in_any_order(2_000).expect("plays"));
    }
}
