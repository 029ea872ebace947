//! `/docs`: the document of the API for people, written from the same source as the document itself. No script is needed.

use super::text::head;
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

/// The page.
pub(super) fn page(document: &Value) -> String {
    let paths = document["paths"].as_object();
    let operations = || {
        let paths = paths.into_iter().flatten();
        paths.flat_map(|(path, item)| {
            METHODS
                .iter()
                .filter_map(move |method| Some((path, *method, item.get(method)?)))
        })
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (head("API – denyut", "/style.css"))
            }
            body class="docs" {
                main {
                    h1 { img src="/icon.svg" alt="" width="28" height="28"; " denyut: the API" }
                    @for text in document["info"]["description"].as_str().unwrap_or_default().split("\n\n") { p { (code(text)) } }
                    p { "For programs: " a href="/api/v1/openapi.json" { "openapi.json" } " (OpenAPI 3.1)." }
                    nav aria-label="Operations" {
                        ul {
                            @for (path, method, operation) in operations() {
                                li { a href={ "#" (anchor(path, method)) } { span class={ "method " (method) } { (method.to_uppercase()) } " " code { (path) } } " " (code(text(operation, "summary"))) }
                            }
                        }
                    }
                    @for (path, method, operation) in operations() { (section(document, path, method, operation)) }
                    h2 { "Schemas" }
                    @for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
                        (schema_section(name, schema))
                    }
                }
            }
        }
    };
    page.into_string()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A text whose parts between backquotes are code.
fn code(text: &str) -> Markup {
    html! {
        @for (i, part) in text.split('`').enumerate() {
            @if i % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn anchor(path: &str, method: &str) -> String {
    let path: String = path
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("{method}{path}")
}

fn section(document: &Value, path: &str, method: &str, operation: &Value) -> Markup {
    let parameters = operation["parameters"].as_array();
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    html! {
        section id=(anchor(path, method)) {
            h2 { span class={ "method " (method) } { (method.to_uppercase()) } " " code { (path) } }
            p { strong { (code(text(operation, "summary"))) } }
            @for text in text(operation, "description").split("\n\n").filter(|text| !text.is_empty()) { p { (code(text)) } }
            @if let Some(parameters) = parameters.filter(|all| !all.is_empty()) {
                table {
                    thead { tr { th { "Parameter" } th { "In" } th { "What" } } }
                    tbody {
                        @for one in parameters {
                            tr {
                                td { code { (text(one, "name")) } @if one["required"] == true { " (needed)" } }
                                td { (text(one, "in")) }
                                td { em { (kind(&one["schema"])) } " " (code(text(one, "description"))) }
                            }
                        }
                    }
                }
            }
            @if !body.is_null() {
                p { "Body: " (kind(body)) ", such as" }
                pre { (example(document, body, 0)) }
            }
            table {
                thead { tr { th { "Answer" } th { "What" } } }
                tbody {
                    @for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
                        tr {
                            td { (status) }
                            td {
                                (code(text(answer, "description"))) " "
                                @for (media, content) in answer["content"].as_object().into_iter().flatten() {
                                    span class="media" { (media.split(';').next().unwrap_or(media)) @if media.ends_with("json") { " " (kind(&content["schema"])) } } " "
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn schema_section(name: &str, schema: &Value) -> Markup {
    // What a schema is made of stands in several parts where one is put into another.
    let parts = schema["allOf"].as_array();
    let parts: Vec<&Value> = parts.map_or_else(|| vec![schema], |parts| parts.iter().collect());
    html! {
        section id={ "schema-" (name) } {
            h3 { (name) }
            p { (code(text(schema, "description"))) " " @if schema["enum"].is_array() { (kind(schema)) } }
            table {
                tbody {
                    @for part in parts {
                        @if part["$ref"].is_string() { tr { td { "…" } td { "and all of " (kind(part)) } } }
                        @for (field, of) in part["properties"].as_object().into_iter().flatten() {
                            tr { td { code { (field) } } td { (kind(of)) " " (code(text(of, "description"))) } }
                        }
                    }
                }
            }
        }
    }
}

/// The kind of a value, with links to the schemas that it is made of.
fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    if let Some(all) = schema["enum"].as_array() {
        return html! { @for (i, one) in all.iter().enumerate() { @if i > 0 { ", " } code { (one.as_str().unwrap_or_default()) } } };
    }
    for either in ["oneOf", "anyOf", "allOf"] {
        if let Some(all) = schema[either].as_array() {
            let all = all.iter().filter(|one| one["type"] != "null");
            return html! { @for (i, one) in all.enumerate() { @if i > 0 { " or " } (kind(one)) } };
        }
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => {
            html! { "list of " (self::kind(&schema["items"])) }
        }
        Value::String(kind) => html! { (kind) },
        Value::Array(kinds) => {
            html! { (kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect::<Vec<_>>().join(" or ")) }
        }
        _ => html! {},
    }
}

/// An example of a schema, as JSON, from the examples of its fields.
fn example(document: &Value, schema: &Value, depth: usize) -> String {
    let value = example_of(document, schema, depth);
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

fn example_of(document: &Value, schema: &Value, depth: usize) -> Value {
    if !schema["example"].is_null() {
        return schema["example"].clone();
    }
    if depth > 6 {
        return Value::Null;
    }
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return example_of(
            document,
            &document["components"]["schemas"][name],
            depth + 1,
        );
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    for either in ["oneOf", "anyOf", "allOf"] {
        if let Some(one) = schema[either]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["type"] != "null"))
        {
            return example_of(document, one, depth + 1);
        }
    }
    if let Some(fields) = schema["properties"].as_object() {
        return fields
            .iter()
            .map(|(name, of)| (name.clone(), example_of(document, of, depth + 1)))
            .collect();
    }
    let kind = schema["type"]
        .as_str()
        .or_else(|| schema["type"].get(0)?.as_str());
    match kind {
        Some("array") => Value::Array(vec![example_of(document, &schema["items"], depth + 1)]),
        Some("integer" | "number") => schema["minimum"].as_i64().unwrap_or(1).into(),
        Some("boolean") => true.into(),
        Some("string") => "…".into(),
        _ => Value::Null,
    }
}
