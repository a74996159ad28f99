//! What is wrong with a spec, where, and what would be right.
//!
//! Text from the file gets into messages, so every message is escaped as it is made: a spec cannot
//! write control sequences to the terminal of whoever checks it.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A part of the spec's text, in bytes.
pub type Span = Range<usize>;

/// One thing that is wrong with a spec, or worth knowing about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// Where in the text, in bytes; `0..0` stands for the whole file.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl SpecError {
    /// An error at `span`; characters that could act on a terminal are escaped.
    pub(crate) fn new(span: Span, message: impl AsRef<str>) -> Self {
        Self { span, message: escape(message.as_ref()), help: None }
    }

    /// An error that is about no place in particular.
    pub(crate) fn whole_file(message: impl AsRef<str>) -> Self {
        Self::new(0..0, message)
    }

    /// The same error, with what would be right.
    pub(crate) fn help(mut self, help: impl AsRef<str>) -> Self {
        self.help = Some(escape(help.as_ref()));
        self
    }

    /// The line and the column in `text`, both counted from 1, the column in characters; `None`
    /// where the error is about the whole file.
    pub fn position(&self, text: &str) -> Option<(usize, usize)> {
        if self.span == (0..0) {
            return None;
        }
        let before = text.get(..self.span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Some((line, before[line_start..].chars().count() + 1))
    }

    /// The error on one line: `FILE:LINE:COL: message; help`.
    pub fn line(&self, file_name: &str, text: &str) -> String {
        let place = self.position(text).map(|(line, column)| format!("{line}:{column}:"));
        let help = self.help.as_ref().map(|help| format!("; {help}"));
        format!(
            "{}:{} {}{}",
            escape(file_name),
            place.unwrap_or_default(),
            self.message,
            help.unwrap_or_default()
        )
    }

    /// The error with the part of the file that it is about, as an error.
    pub fn render(&self, file_name: &str, text: &str, colour: bool) -> String {
        self.draw(Level::ERROR, file_name, text, colour)
    }

    /// The same for something that is allowed and worth knowing (see [`crate::Spec::notes`]).
    pub fn render_note(&self, file_name: &str, text: &str, colour: bool) -> String {
        self.draw(Level::NOTE, file_name, text, colour)
    }

    fn draw(&self, level: Level<'_>, file_name: &str, text: &str, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let title = level.primary_title(self.message.as_str());
        let help = self.help.as_deref().map(|help| Level::HELP.message(help));
        let group = if self.span == (0..0) {
            title.elements(help)
        } else {
            let end = self.span.end.min(text.len());
            let marked = AnnotationKind::Primary.span(self.span.start.min(end)..end);
            let snippet = Snippet::source(text).path(escape(file_name)).annotation(marked);
            title.element(snippet).elements(help)
        };
        renderer.render(&[group])
    }
}

/// Everything that is wrong with a spec, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct Errors(Vec<SpecError>);

impl Errors {
    /// Orders the errors by place; `None` when there are none.
    pub(crate) fn from_list(mut errors: Vec<SpecError>) -> Option<Self> {
        errors.sort_by_key(|error| (error.span.start, error.span.end));
        errors.dedup();
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, SpecError> {
        self.0.iter()
    }

    /// All the errors, each with the part of the file that it is about.
    pub fn render(&self, file_name: &str, text: &str, colour: bool) -> String {
        let drawn: Vec<_> = self.iter().map(|e| e.render(file_name, text, colour)).collect();
        drawn.join("\n\n")
    }

    /// All the errors, one on a line: `FILE:LINE:COL: message; help`.
    pub fn lines(&self, file_name: &str, text: &str) -> String {
        let lines: Vec<_> = self.iter().map(|error| error.line(file_name, text)).collect();
        lines.join("\n")
    }

    fn summary(&self) -> String {
        let first = self.0.first().map_or("", |error| error.message.as_str());
        match self.0.len() {
            0 | 1 => first.to_owned(),
            more => format!("{first}, and {} more", more - 1),
        }
    }
}

impl From<SpecError> for Errors {
    fn from(error: SpecError) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a SpecError;
    type IntoIter = std::slice::Iter<'a, SpecError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Writes characters that act on a terminal, or hide, as `\u{…}`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts_or_hides(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Control characters, line separators, and the format characters that reorder or hide text.
fn acts_or_hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a = 1\nb = \"ö\" # x\nc = 3";

    fn error(span: Span) -> SpecError {
        SpecError::new(span, "wrong").help("right")
    }

    #[test]
    fn positions_count_from_one_and_in_characters() {
        assert_eq!(error(0..1).position(TEXT), Some((1, 1)));
        assert_eq!(error(6..7).position(TEXT), Some((2, 1)));
        let comment = TEXT.find('#').unwrap();
        assert_eq!(error(comment..comment + 1).position(TEXT), Some((2, 9)));
        assert_eq!(error(900..901).position(TEXT), Some((3, 6)));
        assert_eq!(error(0..0).position(TEXT), None);
    }

    #[test]
    fn a_line_holds_all_of_it() {
        assert_eq!(error(6..7).line("f", TEXT), "f:2:1: wrong; right");
        assert_eq!(SpecError::whole_file("wrong").line("f", TEXT), "f: wrong");
    }

    #[test]
    fn messages_file_names_and_source_are_escaped() {
        let text = "x = 1 # \u{1b}[31m\u{202e}";
        let error = SpecError::new(0..1, "bad \u{1b}[31m\u{202e}\n").help("\u{7}");
        assert_eq!(error.message, "bad \\u{1b}[31m\\u{202e}\\u{a}");
        let drawn = error.render("\u{1b}f", text, false) + &error.line("\u{1b}f", text);
        assert!(!drawn.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{drawn:?}");
    }

    #[test]
    fn errors_come_in_the_order_of_the_file_and_once() {
        let errors = Errors::from_list(vec![error(9..10), error(1..2), error(9..10)]).unwrap();
        assert_eq!(errors.iter().map(|e| e.span.start).collect::<Vec<_>>(), [1, 9]);
        assert_eq!(errors.to_string(), "wrong, and 1 more");
        assert!(Errors::from_list(Vec::new()).is_none());
    }

    #[test]
    fn an_error_is_drawn_with_its_place_and_its_help() {
        let drawn = error(6..7).render("fleet.toml", TEXT, false);
        let expected = "error: wrong\n --> fleet.toml:2:1\n  |\n2 | b = \"ö\" # x\n  | ^\n  \
            |\n  = help: right";
        assert_eq!(drawn, expected);
        assert!(error(6..7).render("f", TEXT, true).contains("\u{1b}["));
    }
}
