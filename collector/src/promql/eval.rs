//! Evaluation: what an expression is at each moment that is asked for.

use super::functions::{self, Window, of_moment, of_number, of_range};
use super::read::{self, Labels, NAME, Points};
use super::{Budget, Refused, Times};
use crate::access::Regions;
use crate::query::Query;
use promql_parser::label::MatchOp;
use promql_parser::parser::{
    AggregateExpr, AtModifier, BinModifier, BinaryExpr, Call, Expr, LabelModifier, MatrixSelector,
    Offset, VectorMatchCardinality, VectorSelector,
};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A value of a series at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) labels: Labels,
    pub(crate) value: f64,
    /// When it was measured, where nothing was made of it; in ms.
    at: i64,
}

/// A series over time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    /// Time in ms, and value.
    pub(crate) points: Vec<(i64, f64)>,
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar(f64),
    Text(String),
    Vector(Vec<Sample>),
    Matrix(Vec<Series>),
}

/// What a selector reads.
struct Loaded {
    labels: Labels,
    points: Points,
}

/// An expression that is being evaluated.
struct Evaluation<'a> {
    times: Times,
    loaded: HashMap<*const VectorSelector, Vec<Loaded>>,
    budget: &'a mut Budget,
}

/// Answers an expression as of these times. Blocks.
pub(super) fn evaluate(
    query: &Query,
    sees: &Regions,
    expression: &Expr,
    times: Times,
    budget: &mut Budget,
) -> Result<Value, Refused> {
    let mut selectors = Vec::new();
    collect(expression, &mut selectors)?;
    let mut loaded = HashMap::new();
    for (selector, range) in selectors {
        let fixed = at_of(selector, times);
        let (first, last) = fixed.map_or((times.start, times.end), |at| (at, at));
        let offset = offset_of(selector);
        let (from, to) = (first - offset - range, last - offset);
        let mut all = Vec::new();
        for found in read::select(query, sees, &read::matchers(selector), budget)? {
            let points = found.read(query, from, to, budget)?;
            if !points.all.is_empty() {
                all.push(Loaded {
                    labels: found.labels,
                    points,
                });
            }
        }
        loaded.insert(std::ptr::from_ref(selector), all);
    }
    let mut evaluation = Evaluation {
        times,
        loaded,
        budget,
    };
    if times.step == 0 {
        if let Expr::MatrixSelector(selector) = bare(expression) {
            return Ok(evaluation.matrix(selector, times.start));
        }
        let value = evaluation.at(expression, times.start)?;
        if let Value::Vector(samples) = &value {
            unique(samples)?;
        }
        return Ok(value);
    }
    evaluation.over_time(expression)
}

/// Without what stands around it.
fn bare(expression: &Expr) -> &Expr {
    match expression {
        Expr::Paren(inner) => bare(&inner.expr),
        other => other,
    }
}

/// The selectors of an expression, with how far back each reaches, in ms.
fn collect<'a>(
    expression: &'a Expr,
    all: &mut Vec<(&'a VectorSelector, i64)>,
) -> Result<(), Refused> {
    match expression {
        Expr::VectorSelector(selector) => all.push((selector, 0)),
        Expr::MatrixSelector(selector) => all.push((&selector.vs, millis(selector.range))),
        Expr::Aggregate(one) => {
            collect(&one.expr, all)?;
            if let Some(param) = &one.param {
                collect(param, all)?;
            }
        }
        Expr::Unary(one) => collect(&one.expr, all)?,
        Expr::Paren(one) => collect(&one.expr, all)?,
        Expr::Binary(one) => {
            collect(&one.lhs, all)?;
            collect(&one.rhs, all)?;
        }
        Expr::Call(one) => {
            for argument in &one.args.args {
                collect(argument, all)?;
            }
        }
        Expr::Subquery(_) => return Err(unsupported("subqueries")),
        Expr::Extension(_) => return Err(unsupported("extensions")),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
    }
    Ok(())
}

fn unsupported(what: &str) -> Refused {
    Refused::BadData(format!("{what} are not supported here"))
}

/// Some hundreds of years at most: every sum of times and lengths fits.
fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis())
        .unwrap_or(i64::MAX)
        .min(10_000_000_000_000)
}

fn offset_of(selector: &VectorSelector) -> i64 {
    match &selector.offset {
        None => 0,
        Some(Offset::Pos(length)) => millis(*length),
        Some(Offset::Neg(length)) => -millis(*length),
    }
}

/// The moment that a selector is held at (`@`).
fn at_of(selector: &VectorSelector, times: Times) -> Option<i64> {
    Some(match selector.at.as_ref()? {
        AtModifier::Start => times.start,
        AtModifier::End => times.end,
        AtModifier::At(at) => match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(before) => -millis(before.duration()),
        },
    })
}

/// Whether a label may be called so.
fn is_label(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// An error if two have the same labels.
fn unique(samples: &[Sample]) -> Result<(), Refused> {
    let mut seen = BTreeSet::new();
    if samples.iter().all(|sample| seen.insert(&sample.labels)) {
        return Ok(());
    }
    let text = "vector cannot contain metrics with the same labelset";
    Err(Refused::Execution(text.to_owned()))
}

fn without_name(mut labels: Labels) -> Labels {
    labels.remove(NAME);
    labels
}

/// `f` of each value; what it makes has no name any more.
fn each(samples: Vec<Sample>, f: impl Fn(&Sample) -> f64) -> Result<Vec<Sample>, Refused> {
    let values: Vec<f64> = samples.iter().map(f).collect();
    let mut made = nameless(samples)?;
    for (sample, value) in made.iter_mut().zip(values) {
        sample.value = value;
    }
    Ok(made)
}

/// The same without their names; an error if two are the same then.
fn nameless(mut samples: Vec<Sample>) -> Result<Vec<Sample>, Refused> {
    let mut names = samples.iter().map(|sample| sample.labels.get(NAME));
    let first = names.next().flatten().cloned();
    // Of one metric no two can become the same.
    let is_one = samples
        .iter()
        .all(|sample| sample.labels.get(NAME) == first.as_ref());
    for sample in &mut samples {
        sample.labels.remove(NAME);
    }
    if !is_one {
        unique(&samples)?;
    }
    Ok(samples)
}

impl Evaluation<'_> {
    /// What it is at every step.
    fn over_time(&mut self, expression: &Expr) -> Result<Value, Refused> {
        let Times { start, end, step } = self.times;
        let mut all: BTreeMap<Labels, Vec<(i64, f64)>> = BTreeMap::new();
        let mut at = start;
        while at <= end {
            match self.at(expression, at)? {
                Value::Scalar(value) => all.entry(Labels::new()).or_default().push((at, value)),
                Value::Vector(samples) => {
                    unique(&samples)?;
                    self.budget.take(samples.len())?;
                    for sample in samples {
                        all.entry(sample.labels)
                            .or_default()
                            .push((at, sample.value));
                    }
                }
                Value::Text(_) | Value::Matrix(_) => {
                    let text = "invalid parameter \"query\": a range query must be of a scalar or an instant vector";
                    return Err(Refused::BadData(text.to_owned()));
                }
            }
            self.budget.in_time()?;
            at += step;
        }
        let series = all.into_iter();
        let series = series.map(|(labels, points)| Series { labels, points });
        Ok(Value::Matrix(series.collect()))
    }

    /// What it is at a moment.
    fn at(&mut self, expression: &Expr, at: i64) -> Result<Value, Refused> {
        self.budget.in_time()?;
        match expression {
            Expr::NumberLiteral(number) => Ok(Value::Scalar(number.val)),
            Expr::StringLiteral(text) => Ok(Value::Text(text.val.clone())),
            Expr::Paren(inner) => self.at(&inner.expr, at),
            Expr::Unary(inner) => match self.at(&inner.expr, at)? {
                Value::Scalar(value) => Ok(Value::Scalar(-value)),
                other => Ok(Value::Vector(each(vector(other)?, |sample| -sample.value)?)),
            },
            Expr::VectorSelector(selector) => Ok(Value::Vector(self.newest(selector, at))),
            Expr::Call(call) => self.call(call, at),
            Expr::Aggregate(one) => self.aggregate(one, at),
            Expr::Binary(one) => self.binary(one, at),
            // Where a range may stand is known to those that take one.
            Expr::MatrixSelector(_) => Err(Refused::BadData(
                "invalid parameter \"query\": a range of samples stands where a value should"
                    .to_owned(),
            )),
            Expr::Subquery(_) => Err(unsupported("subqueries")),
            Expr::Extension(_) => Err(unsupported("extensions")),
        }
    }

    fn newest(&self, selector: &VectorSelector, at: i64) -> Vec<Sample> {
        let at = at_of(selector, self.times).unwrap_or(at) - offset_of(selector);
        let loaded = self.loaded.get(&std::ptr::from_ref(selector));
        let all = loaded.into_iter().flatten();
        all.filter_map(|one| {
            let (at, value) = one.points.newest(at)?;
            Some(Sample {
                labels: one.labels.clone(),
                value,
                at,
            })
        })
        .collect()
    }

    /// The points of a range, as they were measured.
    fn matrix(&self, selector: &MatrixSelector, at: i64) -> Value {
        let to = at_of(&selector.vs, self.times).unwrap_or(at) - offset_of(&selector.vs);
        let from = to - millis(selector.range);
        let loaded = self.loaded.get(&std::ptr::from_ref(&selector.vs));
        let all = loaded.into_iter().flatten().filter_map(|one| {
            let points = one.points.within(from, to);
            (!points.is_empty()).then(|| Series {
                labels: one.labels.clone(),
                points: points.to_vec(),
            })
        });
        Value::Matrix(all.collect())
    }

    fn scalar(&mut self, expression: &Expr, at: i64) -> Result<f64, Refused> {
        match self.at(expression, at)? {
            Value::Scalar(value) => Ok(value),
            _ => Err(wrong_argument("a number")),
        }
    }

    fn vector(&mut self, expression: &Expr, at: i64) -> Result<Vec<Sample>, Refused> {
        vector(self.at(expression, at)?)
    }

    // ── Functions ──────────────────────────────────────────────────────────

    #[allow(clippy::too_many_lines, reason = "a list of functions")]
    fn call(&mut self, call: &Call, at: i64) -> Result<Value, Refused> {
        let name = call.func.name;
        let arguments = &call.args.args;
        let argument = |place: usize| arguments.get(place).map(|one| &**one);
        let need = |place: usize| argument(place).ok_or_else(|| wrong_argument("more arguments"));
        if let Some(function) = of_number(name) {
            let samples = self.vector(need(0)?, at)?;
            let made = each(samples, |sample| function(sample.value))?;
            return Ok(Value::Vector(made));
        }
        if let Some(function) = of_moment(name) {
            let samples = match argument(0) {
                Some(argument) => self.vector(argument, at)?,
                None => vec![now(at)],
            };
            let value = |sample: &Sample| {
                functions::moment(sample.value).map_or(f64::NAN, |at| f64::from(function(&at)))
            };
            return Ok(Value::Vector(each(samples, value)?));
        }
        if let Some(function) = of_range(name) {
            let parameter = match name {
                "quantile_over_time" => Some(need(0)?),
                "predict_linear" => Some(need(1)?),
                _ => None,
            };
            let parameter = parameter.map(|one| self.scalar(one, at)).transpose()?;
            let range = need(usize::from(name == "quantile_over_time"))?;
            let keeps_name = name == "last_over_time";
            return self.over_range(range, at, parameter.unwrap_or(0.0), keeps_name, function);
        }
        let samples = match name {
            "absent" => {
                let is_absent = self.vector(need(0)?, at)?.is_empty();
                absent(need(0)?, is_absent, at)
            }
            "absent_over_time" => {
                let Expr::MatrixSelector(selector) = bare(need(0)?) else {
                    return Err(wrong_argument("a range of samples"));
                };
                let is_absent = self.matrix(selector, at) == Value::Matrix(Vec::new());
                absent(bare(need(0)?), is_absent, at)
            }
            "clamp" => {
                let (low, high) = (self.scalar(need(1)?, at)?, self.scalar(need(2)?, at)?);
                let samples = self.vector(need(0)?, at)?;
                if low > high {
                    return Ok(Value::Vector(Vec::new()));
                }
                each(samples, |sample| greater(low, less(high, sample.value)))?
            }
            "clamp_max" => {
                let high = self.scalar(need(1)?, at)?;
                each(self.vector(need(0)?, at)?, |sample| {
                    less(high, sample.value)
                })?
            }
            "clamp_min" => {
                let low = self.scalar(need(1)?, at)?;
                each(self.vector(need(0)?, at)?, |sample| {
                    greater(low, sample.value)
                })?
            }
            "label_join" | "label_replace" => self.relabel(call, at)?,
            "pi" => return Ok(Value::Scalar(std::f64::consts::PI)),
            "round" => {
                let to = argument(1).map(|one| self.scalar(one, at)).transpose()?;
                let inverse = 1.0 / to.unwrap_or(1.0);
                each(self.vector(need(0)?, at)?, |sample| {
                    (sample.value * inverse + 0.5).floor() / inverse
                })?
            }
            "scalar" => {
                let samples = self.vector(need(0)?, at)?;
                let [only] = &samples[..] else {
                    return Ok(Value::Scalar(f64::NAN));
                };
                return Ok(Value::Scalar(only.value));
            }
            "sort" | "sort_desc" => {
                let mut samples = self.vector(need(0)?, at)?;
                samples.sort_by(|one, two| ascending(one.value, two.value));
                if name == "sort_desc" {
                    samples.sort_by(|one, two| descending(one.value, two.value));
                }
                samples
            }
            "time" => return Ok(Value::Scalar(at as f64 / 1_000.0)),
            "timestamp" => each(self.vector(need(0)?, at)?, |sample| {
                sample.at as f64 / 1_000.0
            })?,
            "vector" => vec![Sample {
                labels: Labels::new(),
                value: self.scalar(need(0)?, at)?,
                at,
            }],
            other => {
                let text = format!("the function {other}() is not supported here");
                return Err(Refused::BadData(text));
            }
        };
        Ok(Value::Vector(samples))
    }

    fn over_range(
        &mut self,
        range: &Expr,
        at: i64,
        parameter: f64,
        keeps_name: bool,
        function: functions::OfRange,
    ) -> Result<Value, Refused> {
        let Expr::MatrixSelector(selector) = bare(range) else {
            return Err(wrong_argument("a range of samples"));
        };
        let to = at_of(&selector.vs, self.times).unwrap_or(at) - offset_of(&selector.vs);
        let from = to - millis(selector.range);
        let loaded = self.loaded.get(&std::ptr::from_ref(&selector.vs));
        let mut samples = Vec::new();
        for one in loaded.into_iter().flatten() {
            let points = one.points.within(from, to);
            if points.is_empty() {
                continue;
            }
            let window = Window {
                points,
                from,
                to,
                at,
                parameter,
            };
            if let Some(value) = function(&window) {
                samples.push(Sample {
                    labels: one.labels.clone(),
                    value,
                    at,
                });
            }
        }
        self.budget.in_time()?;
        if !keeps_name {
            samples = nameless(samples)?;
        }
        Ok(Value::Vector(samples))
    }

    /// `label_replace(v, to, text, from, pattern)` and `label_join(v, to, between, from…)`.
    fn relabel(&mut self, call: &Call, at: i64) -> Result<Vec<Sample>, Refused> {
        let mut texts = Vec::new();
        for argument in call.args.args.iter().skip(1) {
            match self.at(argument, at)? {
                Value::Text(text) => texts.push(text),
                _ => return Err(wrong_argument("a text")),
            }
        }
        let samples = match call.args.args.first() {
            Some(argument) => self.vector(argument, at)?,
            None => return Err(wrong_argument("an instant vector")),
        };
        let [to, text, from @ ..] = &texts[..] else {
            return Err(wrong_argument("more texts"));
        };
        if !is_label(to) {
            let text = format!(
                "invalid destination label name in {}(): {to}",
                call.func.name
            );
            return Err(Refused::Execution(text));
        }
        let pattern = match (call.func.name, from) {
            ("label_replace", [_, pattern]) => {
                let pattern = regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
                    .size_limit(1 << 20)
                    .build();
                Some(pattern.map_err(|_| {
                    Refused::Execution("invalid regular expression in label_replace()".to_owned())
                })?)
            }
            _ => None,
        };
        let mut made = Vec::new();
        for mut sample in samples {
            let value_of =
                |labels: &Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
            let value = if let (Some(pattern), [from, _]) = (&pattern, from) {
                let value = value_of(&sample.labels, from);
                pattern.captures(&value).map(|found| {
                    let mut made = String::new();
                    found.expand(text, &mut made);
                    made
                })
            } else {
                let parts = from.iter().map(|from| value_of(&sample.labels, from));
                let parts: Vec<Arc<str>> = parts.collect();
                Some(parts.join(text.as_str()))
            };
            self.budget
                .take_label(value.as_deref().unwrap_or_default())?;
            match value {
                Some(value) if value.is_empty() => {
                    sample.labels.remove(to.as_str());
                }
                Some(value) => {
                    sample.labels.insert(to.as_str().into(), value.into());
                }
                None => {}
            }
            made.push(sample);
        }
        unique(&made)?;
        Ok(made)
    }

    // ── Aggregation ────────────────────────────────────────────────────────

    fn aggregate(&mut self, one: &AggregateExpr, at: i64) -> Result<Value, Refused> {
        let name = one.op.to_string();
        let parameter = one
            .param
            .as_ref()
            .map(|param| self.at(param, at))
            .transpose()?;
        let number = match &parameter {
            Some(Value::Scalar(number)) => *number,
            _ => 0.0,
        };
        let samples = self.vector(&one.expr, at)?;
        let mut groups: BTreeMap<Labels, Vec<Sample>> = BTreeMap::new();
        for sample in samples {
            let labels = group_of(&sample.labels, one.modifier.as_ref());
            groups.entry(labels).or_default().push(sample);
        }
        let mut made = Vec::new();
        for (labels, samples) in groups {
            let values = || samples.iter().map(|sample| sample.value);
            let value = match name.as_str() {
                "sum" => functions::sum(values()),
                "avg" => functions::mean(values()),
                "count" => samples.len() as f64,
                "group" => 1.0,
                "min" => values()
                    .reduce(|one, two| if two < one || one.is_nan() { two } else { one })
                    .unwrap_or(f64::NAN),
                "max" => values()
                    .reduce(|one, two| if two > one || one.is_nan() { two } else { one })
                    .unwrap_or(f64::NAN),
                "stddev" => functions::variance(values()).sqrt(),
                "stdvar" => functions::variance(values()),
                "quantile" => functions::quantile(number, values().collect()),
                "topk" | "bottomk" => {
                    made.extend(best(samples, number, name == "topk"));
                    continue;
                }
                "count_values" => {
                    let Some(Value::Text(label)) = &parameter else {
                        return Err(wrong_argument("the name of a label"));
                    };
                    if !is_label(label) {
                        let text = format!("invalid label name \"{label}\"");
                        return Err(Refused::Execution(text));
                    }
                    made.extend(values_of(&labels, &samples, label, at));
                    continue;
                }
                other => {
                    let text = format!("the aggregation {other} is not supported here");
                    return Err(Refused::BadData(text));
                }
            };
            made.push(Sample { labels, value, at });
        }
        Ok(Value::Vector(made))
    }

    // ── Two of them ────────────────────────────────────────────────────────

    fn binary(&mut self, one: &BinaryExpr, at: i64) -> Result<Value, Refused> {
        let left = self.at(&one.lhs, at)?;
        let right = self.at(&one.rhs, at)?;
        let operator = Operator {
            name: one.op.to_string(),
            is_bool: one
                .modifier
                .as_ref()
                .is_some_and(|modifier| modifier.return_bool),
        };
        match (left, right) {
            (Value::Scalar(left), Value::Scalar(right)) => {
                let value = operator.of(left, right)?;
                let is_so = f64::from(u8::from(value.is_some()));
                Ok(Value::Scalar(if operator.compares() {
                    is_so
                } else {
                    value.unwrap_or(f64::NAN)
                }))
            }
            (Value::Vector(samples), Value::Scalar(right)) => {
                operator.with_scalar(samples, |value| (value, right))
            }
            (Value::Scalar(left), Value::Vector(samples)) => {
                operator.with_scalar(samples, |value| (left, value))
            }
            (Value::Vector(left), Value::Vector(right)) => {
                let modifier = one.modifier.as_ref();
                Ok(Value::Vector(operator.of_vectors(left, right, modifier)?))
            }
            _ => Err(wrong_argument("a number or an instant vector")),
        }
    }
}

fn wrong_argument(wanted: &str) -> Refused {
    Refused::BadData(format!("invalid parameter \"query\": expected {wanted}"))
}

fn vector(value: Value) -> Result<Vec<Sample>, Refused> {
    match value {
        Value::Vector(samples) => Ok(samples),
        _ => Err(wrong_argument("an instant vector")),
    }
}

/// The moment that is asked for, as a vector.
fn now(at: i64) -> Sample {
    Sample {
        labels: Labels::new(),
        value: at as f64 / 1_000.0,
        at,
    }
}

/// Go's `math.Min` and `math.Max`: what is no number stays none.
fn less(one: f64, two: f64) -> f64 {
    if one.is_nan() || two.is_nan() {
        f64::NAN
    } else {
        one.min(two)
    }
}

fn greater(one: f64, two: f64) -> f64 {
    if one.is_nan() || two.is_nan() {
        f64::NAN
    } else {
        one.max(two)
    }
}

/// What is no number comes last, both ways.
fn ascending(one: f64, two: f64) -> Ordering {
    one.is_nan()
        .cmp(&two.is_nan())
        .then(one.partial_cmp(&two).unwrap_or(Ordering::Equal))
}

fn descending(one: f64, two: f64) -> Ordering {
    one.is_nan()
        .cmp(&two.is_nan())
        .then(two.partial_cmp(&one).unwrap_or(Ordering::Equal))
}

/// 1 for what is not there, with the labels that it would surely have.
fn absent(expression: &Expr, is_absent: bool, at: i64) -> Vec<Sample> {
    if !is_absent {
        return Vec::new();
    }
    let selector = match bare(expression) {
        Expr::VectorSelector(selector) => Some(selector),
        Expr::MatrixSelector(selector) => Some(&selector.vs),
        _ => None,
    };
    let mut labels = Labels::new();
    let mut twice = BTreeSet::new();
    for one in selector
        .into_iter()
        .flat_map(|selector| &selector.matchers.matchers)
    {
        if one.name == NAME {
            continue;
        }
        let is_sure = matches!(one.op, MatchOp::Equal) && !labels.contains_key(one.name.as_str());
        if is_sure {
            labels.insert(one.name.as_str().into(), one.value.as_str().into());
        } else {
            twice.insert(one.name.clone());
        }
    }
    labels.retain(|name, value| !twice.contains(&**name) && !value.is_empty());
    vec![Sample {
        labels,
        value: 1.0,
        at,
    }]
}

/// The labels of the group that a series belongs to.
fn group_of(labels: &Labels, modifier: Option<&LabelModifier>) -> Labels {
    let mut labels = labels.clone();
    match modifier {
        None => labels.clear(),
        Some(LabelModifier::Include(names)) => {
            labels.retain(|name, _| names.labels.iter().any(|one| **one == **name));
        }
        Some(LabelModifier::Exclude(names)) => {
            labels.retain(|name, _| {
                &**name != NAME && !names.labels.iter().any(|one| **one == **name)
            });
        }
    }
    labels
}

/// The greatest, or the least, so many.
fn best(mut samples: Vec<Sample>, count: f64, greatest: bool) -> Vec<Sample> {
    let order = if greatest { descending } else { ascending };
    samples.sort_by(|one, two| order(one.value, two.value));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "less than nothing is nothing, and more than all is all"
    )]
    samples.truncate(count.max(0.0) as usize);
    samples
}

/// How often each value is there.
fn values_of(labels: &Labels, samples: &[Sample], label: &str, at: i64) -> Vec<Sample> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for sample in samples {
        *counts.entry(sample.value.to_string()).or_default() += 1;
    }
    let made = counts.into_iter().map(|(value, count)| {
        let mut labels = labels.clone();
        labels.insert(label.into(), value.into());
        Sample {
            labels,
            value: f64::from(count),
            at,
        }
    });
    made.collect()
}

/// An operator between two.
struct Operator {
    name: String,
    /// A comparison says whether it is so, instead of keeping what is.
    is_bool: bool,
}

impl Operator {
    fn compares(&self) -> bool {
        matches!(self.name.as_str(), "==" | "!=" | "<" | "<=" | ">" | ">=")
    }

    /// What it makes of two numbers; of a comparison the left one, if it is so.
    fn of(&self, left: f64, right: f64) -> Result<Option<f64>, Refused> {
        let keep = |is_so: bool| is_so.then_some(left);
        #[allow(clippy::float_cmp, reason = "it is what is asked for")]
        let value = match self.name.as_str() {
            "+" => Some(left + right),
            "-" => Some(left - right),
            "*" => Some(left * right),
            "/" => Some(left / right),
            "%" => Some(left % right),
            "^" => Some(left.powf(right)),
            "atan2" => Some(left.atan2(right)),
            "==" => keep(left == right),
            "!=" => keep(left != right),
            "<" => keep(left < right),
            "<=" => keep(left <= right),
            ">" => keep(left > right),
            ">=" => keep(left >= right),
            other => {
                let text = format!("the operator {other} is not supported here");
                return Err(Refused::BadData(text));
            }
        };
        Ok(value)
    }

    /// With a number on one side; a comparison keeps the vector's own values.
    fn with_scalar(
        &self,
        samples: Vec<Sample>,
        sides: impl Fn(f64) -> (f64, f64),
    ) -> Result<Value, Refused> {
        let mut made = Vec::new();
        for sample in samples {
            let (left, right) = sides(sample.value);
            let found = self.of(left, right)?;
            if self.compares() && !self.is_bool {
                made.extend(found.map(|_| sample));
                continue;
            }
            let value = if self.compares() {
                f64::from(u8::from(found.is_some()))
            } else {
                found.unwrap_or(f64::NAN)
            };
            made.push(Sample { value, ..sample });
        }
        if !self.compares() || self.is_bool {
            made = nameless(made)?;
        }
        Ok(Value::Vector(made))
    }

    fn of_vectors(
        &self,
        left: Vec<Sample>,
        right: Vec<Sample>,
        modifier: Option<&BinModifier>,
    ) -> Result<Vec<Sample>, Refused> {
        let matching = modifier.and_then(|modifier| modifier.matching.as_ref());
        if modifier.is_some_and(|modifier| {
            modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some()
        }) {
            return Err(unsupported("fill modifiers"));
        }
        let signature = |sample: &Sample| match matching {
            // Without a word all labels but the name must be the same.
            None => without_name(sample.labels.clone()),
            some => group_of(&sample.labels, some),
        };
        if matches!(self.name.as_str(), "and" | "or" | "unless") {
            return Ok(self.of_sets(left, right, signature));
        }
        let card = modifier.map(|modifier| &modifier.card);
        let one_to_many = matches!(card, Some(VectorMatchCardinality::OneToMany(_)));
        let included = match card {
            Some(
                VectorMatchCardinality::ManyToOne(labels)
                | VectorMatchCardinality::OneToMany(labels),
            ) => Some(&labels.labels),
            _ => None,
        };
        let (many, one) = if one_to_many {
            (right, left)
        } else {
            (left, right)
        };
        let side = if one_to_many { "left" } else { "right" };
        let mut ones: BTreeMap<Labels, Sample> = BTreeMap::new();
        for sample in one {
            if ones.insert(signature(&sample), sample).is_some() {
                return Err(Refused::Execution(format!(
                    "found duplicate series for a match group on the {side} hand-side of the operation;many-to-many matching not allowed: matching labels must be unique on one side"
                )));
            }
        }
        let mut made: Vec<Sample> = Vec::new();
        let mut matched = BTreeSet::new();
        for sample in many {
            let key = signature(&sample);
            let Some(other) = ones.get(&key) else {
                continue;
            };
            let (left, right) = if one_to_many {
                (other.value, sample.value)
            } else {
                (sample.value, other.value)
            };
            let found = self.of(left, right)?;
            let value = match found {
                Some(_) if self.compares() && self.is_bool => 1.0,
                Some(value) => value,
                None if self.is_bool => 0.0,
                None => continue,
            };
            let mut labels = sample.labels.clone();
            if !self.compares() || self.is_bool {
                labels.remove(NAME);
            }
            match (included, matching) {
                (None, Some(LabelModifier::Include(names))) => {
                    labels.retain(|name, _| names.labels.iter().any(|one| **one == **name));
                }
                (None, Some(LabelModifier::Exclude(names))) => {
                    labels.retain(|name, _| !names.labels.iter().any(|one| **one == **name));
                }
                (None, None) => {}
                (Some(names), _) => {
                    for name in names {
                        match other.labels.get(name.as_str()) {
                            Some(value) => labels.insert(name.as_str().into(), Arc::clone(value)),
                            None => labels.remove(name.as_str()),
                        };
                    }
                }
            }
            let is_first = if included.is_some() {
                matched.insert(labels.clone())
            } else {
                matched.insert(key)
            };
            if !is_first {
                let text = if included.is_some() {
                    "multiple matches for labels: grouping labels must ensure unique matches"
                } else {
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                };
                return Err(Refused::Execution(text.to_owned()));
            }
            made.push(Sample {
                labels,
                value,
                at: sample.at,
            });
        }
        Ok(made)
    }

    fn of_sets(
        &self,
        mut left: Vec<Sample>,
        right: Vec<Sample>,
        signature: impl Fn(&Sample) -> Labels,
    ) -> Vec<Sample> {
        if self.name == "or" {
            let known: BTreeSet<Labels> = left.iter().map(&signature).collect();
            left.extend(
                right
                    .into_iter()
                    .filter(|sample| !known.contains(&signature(sample))),
            );
            return left;
        }
        let others: BTreeSet<Labels> = right.iter().map(&signature).collect();
        let keeps = self.name == "and";
        left.retain(|sample| others.contains(&signature(sample)) == keeps);
        left
    }
}
