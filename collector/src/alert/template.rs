//! The form of a text: Jinja, of our own or of the operator's.

use super::Language;
use anyhow::{Context, bail};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Steps of one rendering, at most: one that goes on for ever stops.
const FUEL: u64 = 500_000;
/// Bytes of a template, at most.
const BYTES_MAX: usize = 16 << 10;
/// What the one template of an environment is called: errors name it.
const NAME: &str = "template";

/// A text with places for what is told.
#[derive(Clone)]
pub(crate) struct Template(Arc<Environment<'static>>);

impl fmt::Debug for Template {
    /// Without its text, which may hold what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

impl Template {
    /// The text of our own.
    pub(crate) const fn own(language: Language) -> &'static str {
        match language {
            Language::Id => include_str!("id.txt"),
            Language::En => include_str!("en.txt"),
        }
    }

    /// Reads one; what is wrong in it is said with its line.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        if text.len() > BYTES_MAX {
            bail!("a template has at most {BYTES_MAX} bytes");
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // A misspelt name must not be an empty place.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_template_owned(NAME, text.to_owned())?;
        Ok(Self(Arc::new(environment)))
    }

    /// The text with everything in its place.
    pub(crate) fn render(&self, values: &impl Serialize) -> anyhow::Result<String> {
        let template = self.0.get_template(NAME)?;
        let text = template.render(minijinja::value::Serde(values));
        text.map_err(|error| {
            let detail = error.detail().unwrap_or_default();
            let line = error.line().unwrap_or_default();
            anyhow::anyhow!("line {line}: {}: {detail}", error.kind())
        })
        .context("the template cannot be filled in")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_in_a_template_is_said() {
        let values = json!({"incidents": [1, 2, 3]});
        for (text, wrong) in [
            ("{{ incident", "unexpected"),
            ("{% for x in incidents %}", "unexpected end of input"),
            ("a\n{{ incidnets }}", "line 2: undefined value"),
            (
                "{% for x in range(9999) %}{% for y in range(9999) %}{% endfor %}{% endfor %}",
                "fuel",
            ),
        ] {
            let error = Template::read(text).and_then(|template| template.render(&values));
            let error = format!("{:#}", error.expect_err(text));
            assert!(error.contains(wrong), "{text}: {error}");
        }
        let text = Template::read("{{ incidents|length }} {{ incidents|tojson }}").expect("reads");
        assert_eq!(text.render(&values).expect("renders"), "3 [1, 2, 3]");
        assert!(Template::read(&" ".repeat(BYTES_MAX + 1)).is_err());
    }
}
