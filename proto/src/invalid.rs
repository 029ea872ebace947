//! The one shape of "this value cannot be used": field, value, what is wrong, what to do.

/// A value from outside that was not accepted. The text names the field, the value and the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` = `{value}`: {problem}; {fix}")]
pub struct Invalid {
    /// Path of the field, as the writer of the value knows it (`target[2].interval`).
    pub field: String,
    /// What stood there, cut to [`Invalid::VALUE_MAX`] characters.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write or do instead.
    pub fix: String,
}

impl Invalid {
    /// Characters of a refused value that are repeated in the error: enough to recognise it, too few to
    /// flood a log with.
    pub const VALUE_MAX: usize = 120;

    #[allow(
        clippy::needless_pass_by_value,
        reason = "most callers make the value on the spot"
    )]
    /// Makes the error; control characters in the value are escaped.
    pub fn new(
        field: impl Into<String>,
        value: impl ToString,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let full = value.to_string();
        let mut value = String::new();
        for c in full.chars().take(Self::VALUE_MAX) {
            if c.is_control() {
                value.extend(c.escape_default());
            } else {
                value.push(c);
            }
        }
        if full.chars().nth(Self::VALUE_MAX).is_some() {
            value.push('…');
        }
        Self {
            field: field.into(),
            value,
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// The same error seen from further out: `inner` becomes `outer.inner`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}
