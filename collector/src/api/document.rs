//! What is true of all operations, said once in the document of the API: how parameters look, and what may be answered to any request.

use super::guard::is_question;
use super::list::pairs;
use super::offices::FAR;
use super::problem::Problem;
use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use denyut_proto::Invalid;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{self, ContentBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder};

/// How a parameter looks, wherever it stands: its pattern, or its least and greatest value.
const PATTERNS: [(&str, &str); 6] = [
    ("office", r"^\d{2}\.\d{2}\.\d{2}(\.\d{4})?$"),
    ("region", r"^\d{2}(\.\d{2}(\.\d{2}(\.\d{4})?)?)?$"),
    ("agent", r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
    ("target", r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
    ("role", r"^(gateway|server|uplink|dns|central|collector)$"),
    ("Idempotency-Key", r"^[!-~]{1,100}$"),
];
const BOUNDS: [(&str, i64, i64); 6] = [
    ("at_ms", -FAR, FAR),
    ("limit", 1, i64::MAX),
    ("from_ms", -FAR, FAR),
    ("to_ms", -FAR, FAR),
    ("step_ms", 1_000, FAR),
    ("number", 0, i64::MAX),
];

/// What a list goes on by, where that is no name.
const CURSORS: [(&str, &str); 6] = [
    ("/incidents", r"^(0|[1-9]\d{0,17})$"),
    ("/audit", r"^(0|[1-9]\d{0,17})$"),
    ("/silences", r"^(0|[1-9]\d{0,17})$"),
    ("/messages", r"^(0|[1-9]\d{0,17})$"),
    ("/maintenance", r"^(0|[1-9]\d{0,17})$"),
    ("/patterns", r"^\d{2}\.\d{2}\.\d{2}(\.\d{4})?/\d{1,9}$"),
];

/// A problem of this description.
pub(super) fn problem(text: &str) -> openapi::Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new()
        .description(text)
        .content("application/problem+json", content.build())
        .build()
}

/// Completes every operation.
pub(super) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let reads = [&mut item.get];
        for operation in reads.into_iter().flatten() {
            parameters(operation, path);
        }
        if is_question(path) {
            continue;
        }
        // What is put is the same however often it is.
        let writes = [
            (&mut item.put, false),
            (&mut item.post, true),
            (&mut item.patch, true),
            (&mut item.delete, true),
        ];
        for (operation, has_key) in writes {
            let Some(operation) = operation else { continue };
            let key = ParameterBuilder::new()
                .name("Idempotency-Key")
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .description(Some(
                    "A name of this request: when it comes again under it, it is not done twice.",
                ))
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            if has_key {
                let known = operation.parameters.get_or_insert_default();
                known.push(key.build());
            }
            parameters(operation, path);
            let mut answers = vec![
                ("400", "something in it is not valid; `field` says what"),
                (
                    "409",
                    "as things stand it cannot be done (or a request under this `Idempotency-Key` is being done)",
                ),
            ];
            if has_key {
                answers.push(("422", "this `Idempotency-Key` was used with another body"));
            }
            if operation.request_body.is_some() {
                answers.push(("413", "the body is too long"));
                answers.push(("415", "the body is not JSON"));
            }
            for (status, text) in answers {
                let known = &mut operation.responses.responses;
                known
                    .entry(status.to_owned())
                    .or_insert_with(|| problem(text).into());
            }
        }
    }
}

/// Parameters that may be asked by, by path and method.
pub(super) type Names = HashMap<(String, Method), BTreeSet<String>>;

/// The names of the parameters of a query, by path and method.
pub(super) fn names(document: &OpenApi) -> Names {
    let mut names = Names::new();
    for (path, item) in &document.paths.paths {
        let all = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        for (method, operation) in all {
            let Some(operation) = operation else { continue };
            let parameters = operation.parameters.iter().flatten();
            let queried = parameters.filter(|one| matches!(one.parameter_in, ParameterIn::Query));
            names.insert(
                (path.clone(), method),
                queried.map(|one| one.name.clone()).collect(),
            );
        }
    }
    names
}

/// Refuses a request with a parameter that its operation does not know: a misspelt one must not be lost in silence.
pub(super) async fn check(names: Arc<Names>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    // Who asks for the head only asks the same.
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    let known = path.and_then(|path| names.get(&(path.as_str().to_owned(), method)));
    if let (Some(known), Some(query)) = (known, request.uri().query()) {
        let asked = pairs(Some(query)).into_iter().map(|(name, _)| name);
        let mut unknown = asked.filter(|name| !name.is_empty() && !known.contains(name));
        if let Some(name) = unknown.next() {
            let all: Vec<&str> = known.iter().map(String::as_str).collect();
            let fix = match all[..] {
                [] => "it has none".to_owned(),
                _ => format!("it has {}", all.join(", ")),
            };
            let field = if name.len() > 100 { "…" } else { &name };
            return Problem::from(Invalid::new(field, "…", "no such parameter", fix))
                .into_response();
        }
    }
    next.run(request).await
}

fn parameters(operation: &mut Operation, path: &str) {
    let is_list = operation
        .parameters
        .iter()
        .flatten()
        .any(|one| one.name == "format");
    if is_list && let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") {
        for kind in [
            "application/x-ndjson",
            "text/csv; charset=utf-8; header=present",
        ] {
            let text = ObjectBuilder::new().schema_type(Type::String);
            let content = ContentBuilder::new().schema(Some(text)).build();
            answer.content.entry(kind.to_owned()).or_insert(content);
        }
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        // In the history a beginning of a code does, too.
        let name = if path.ends_with("/history") && parameter.name == "office" {
            "region"
        } else {
            &parameter.name
        };
        let is_cursor = parameter.name == "after";
        let cursor = CURSORS
            .iter()
            .find(|(of, _)| is_cursor && path.ends_with(of));
        let pattern = cursor.or_else(|| PATTERNS.iter().find(|(known, _)| *known == name));
        let pattern = pattern.map(|(_, pattern)| *pattern);
        let bounds = BOUNDS
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, least, most)| (*least, *most));
        limit(parameter, pattern, bounds);
    }
}

fn limit(parameter: &mut Parameter, pattern: Option<&str>, bounds: Option<(i64, i64)>) {
    if let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema {
        if let Some(pattern) = pattern {
            object.pattern = Some(pattern.to_owned());
        }
        if let Some((least, most)) = bounds {
            object.minimum = isize::try_from(least).ok().map(utoipa::Number::Int);
            let most = isize::try_from(most)
                .ok()
                .filter(|most| *most != isize::MAX);
            object.maximum = most.map(utoipa::Number::Int);
        }
    }
}
