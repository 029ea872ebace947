//! What is true of all operations, said once in the document of the API: how parameters look, and what may be answered to any request.

use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};

/// ±10,000 years in ms: see `time_range`.
const FAR: i64 = 315_576_000_000_000;

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

/// A problem of this description.
pub(super) fn problem(text: &str) -> Response {
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
        let writes = [
            &mut item.post,
            &mut item.put,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in writes.into_iter().flatten() {
            let key = ParameterBuilder::new()
                .name("Idempotency-Key")
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .description(Some(
                    "A name of this request: when it comes again under it, it is not done twice.",
                ))
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            operation
                .parameters
                .get_or_insert_default()
                .push(key.build());
            parameters(operation, path);
            let mut answers = vec![
                ("400", "something in it is not valid; `field` says what"),
                (
                    "409",
                    "as things stand it cannot be done; or a request under this `Idempotency-Key` is being done",
                ),
                ("422", "this `Idempotency-Key` was used with another body"),
            ];
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
        let pattern = PATTERNS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, pattern)| *pattern);
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
