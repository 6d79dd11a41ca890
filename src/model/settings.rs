//! Reading settings from TOML so that all faults are reported at once, each with its line.
//!
//! A [`Section`] is asked for its keys one by one; what is wrong is noted and the default goes on. In the end
//! [`Section::finish`] notes every key nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file, an environment variable or a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, or `environment`, or `command line`.
    pub source: String,
    /// Line, counted from 1, in a file.
    pub line: Option<usize>,
    /// The key, dotted; empty when it is about the whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A value with the place it came from.
#[derive(Debug, Clone)]
struct Entry {
    source: Rc<str>,
    line: Option<usize>,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Whole(String),
    Flag(bool),
    List(Vec<Entry>),
    Table(BTreeMap<String, Entry>),
    Other(&'static str),
}

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Whole(_) => "a whole number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

type Faults = Rc<RefCell<Vec<Fault>>>;

/// One table being read.
pub struct Section {
    source: Rc<str>,
    line: Option<usize>,
    path: String,
    entries: BTreeMap<String, Entry>,
    known: Vec<&'static str>,
    faults: Faults,
}

impl Section {
    /// The top table of a text. A text that is not TOML is a fault and reads as empty.
    #[must_use]
    pub fn parse(source: &str, text: &str) -> Self {
        let (name, faults): (Rc<str>, Faults) = (source.into(), Faults::default());
        let entries = match DeTable::parse(text) {
            Ok(table) => table_of(&name, text, table.get_ref()),
            Err(error) => {
                let line = error.span().map(|span| line_at(text, span.start));
                faults.borrow_mut().push(Fault {
                    source: source.to_owned(),
                    line,
                    key: String::new(),
                    message: format!("not valid TOML: {}", error.message().replace('\n', " ")),
                });
                BTreeMap::new()
            }
        };
        Self { source: name, line: None, path: String::new(), entries, known: Vec::new(), faults }
    }

    /// Puts a value over whatever stands at a dotted key: `true` and `false` become flags, digits whole numbers.
    pub fn put(&mut self, source: &str, key: &str, text: &str) {
        let value = match text {
            "true" | "false" => Value::Flag(text == "true"),
            _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => Value::Whole(text.to_owned()),
            _ => Value::Text(text.to_owned()),
        };
        let entry = Entry { source: source.into(), line: None, value };
        match key.split_once('.') {
            None => drop(self.entries.insert(key.to_owned(), entry)),
            Some((table, key)) => {
                let empty = || Entry { source: source.into(), line: None, value: Value::Table(BTreeMap::new()) };
                if let Value::Table(inner) = &mut self.entries.entry(table.to_owned()).or_insert_with(empty).value {
                    inner.insert(key.to_owned(), entry);
                }
            }
        }
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<Entry> {
        self.known.push(key);
        self.entries.remove(key)
    }

    fn fault_at(&self, entry: &Entry, key: &str, message: impl Into<String>) {
        self.faults.borrow_mut().push(Fault {
            source: entry.source.to_string(),
            line: entry.line,
            key: self.dotted(key),
            message: message.into(),
        });
    }

    /// Notes a fault of this section.
    pub fn fault(&self, key: &str, message: impl Into<String>) {
        self.faults.borrow_mut().push(Fault {
            source: self.source.to_string(),
            line: self.line,
            key: self.dotted(key),
            message: message.into(),
        });
    }

    /// A text, turned into what it should be by `parse`, whose error is noted.
    pub fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let entry = self.take(key)?;
        match &entry.value {
            Value::Text(text) | Value::Whole(text) => match parse(text) {
                Ok(value) => return Some(value),
                Err(error) => self.fault_at(&entry, key, error.to_string()),
            },
            other => self.fault_at(&entry, key, format!("is {}, expected text", other.kind())),
        }
        None
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok::<_, std::convert::Infallible>(text.to_owned()))
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(key, |text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
                .ok_or_else(|| format!("{text:?} is not one of {}", known.join(", ")))
        })
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, key: &'static str, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let entry = self.take(key)?;
        let Value::Whole(text) = &entry.value else {
            self.fault_at(&entry, key, format!("is {}, expected a whole number", entry.value.kind()));
            return None;
        };
        match text.replace('_', "").parse::<u64>() {
            Ok(number) if bounds.contains(&number) => Some(number),
            _ => {
                self.fault_at(&entry, key, format!("is {text}, expected {} to {}", bounds.start(), bounds.end()));
                None
            }
        }
    }

    /// True or false.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let entry = self.take(key)?;
        match entry.value {
            Value::Flag(flag) => Some(flag),
            ref other => {
                self.fault_at(&entry, key, format!("is {}, expected true or false", other.kind()));
                None
            }
        }
    }

    /// A list of texts, each checked; at most `most`.
    pub fn texts<E: fmt::Display>(
        &mut self,
        key: &'static str,
        most: usize,
        check: impl Fn(&str) -> Result<(), E>,
    ) -> Option<Vec<String>> {
        let entry = self.take(key)?;
        // A flag and a variable have no lists; commas do instead.
        let split: Vec<Entry>;
        let items = match &entry.value {
            Value::List(items) => items,
            Value::Text(text) if entry.line.is_none() => {
                let part = |part: &str| Entry { value: Value::Text(part.trim().to_owned()), ..entry.clone() };
                split = text.split(',').filter(|part| !part.trim().is_empty()).map(part).collect();
                &split
            }
            other => {
                self.fault_at(&entry, key, format!("is {}, expected a list of texts", other.kind()));
                return None;
            }
        };
        if items.len() > most {
            self.fault_at(&entry, key, format!("has {} entries, at most {most} are allowed", items.len()));
            return None;
        }
        let mut texts = Vec::new();
        for item in items {
            match &item.value {
                Value::Text(text) => match check(text) {
                    Ok(()) => texts.push(text.clone()),
                    Err(error) => self.fault_at(item, key, error.to_string()),
                },
                other => self.fault_at(item, key, format!("holds {}, expected texts", other.kind())),
            }
        }
        Some(texts)
    }

    /// A table; an empty one when there is none, so that its defaults apply.
    pub fn section(&mut self, key: &'static str) -> Self {
        self.section_if_there(key).unwrap_or_else(|| Self {
            source: self.source.clone(),
            line: self.line,
            path: self.dotted(key),
            entries: BTreeMap::new(),
            known: Vec::new(),
            faults: self.faults.clone(),
        })
    }

    /// A table, when there is one.
    pub fn section_if_there(&mut self, key: &'static str) -> Option<Self> {
        let entry = self.take(key)?;
        self.table(&entry, key, self.dotted(key))
    }

    fn table(&self, entry: &Entry, key: &str, path: String) -> Option<Self> {
        let Value::Table(entries) = &entry.value else {
            self.fault_at(entry, key, format!("is {}, expected a table", entry.value.kind()));
            return None;
        };
        Some(Self {
            source: entry.source.clone(),
            line: entry.line,
            path,
            entries: entries.clone(),
            known: Vec::new(),
            faults: self.faults.clone(),
        })
    }

    /// A list of tables; at most `most`.
    pub fn sections(&mut self, key: &'static str, most: usize) -> Vec<Self> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let Value::List(items) = &entry.value else {
            self.fault_at(&entry, key, format!("is {}, expected [[{key}]] tables", entry.value.kind()));
            return Vec::new();
        };
        if items.len() > most {
            self.fault_at(&entry, key, format!("has {} entries, at most {most} are allowed", items.len()));
        }
        items
            .iter()
            .take(most)
            .enumerate()
            .filter_map(|(index, item)| self.table(item, key, format!("{}[{index}]", self.dotted(key))))
            .collect()
    }

    /// Notes every key nobody asked for.
    pub fn finish(self) {
        for (key, entry) in &self.entries {
            let near =
                self.known.iter().min_by_key(|known| distance(known, key)).filter(|known| distance(known, key) <= 3);
            let hint = near.map_or_else(
                || format!("known here: {}", self.known.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            self.fault_at(entry, key, format!("unknown key; {hint}"));
        }
    }

    /// Everything noted so far in this section and all others of the same text.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.borrow().clone()
    }

    /// A way to the faults that outlives the section.
    #[must_use]
    pub fn fault_list(&self) -> Rc<RefCell<Vec<Fault>>> {
        self.faults.clone()
    }
}

fn table_of(source: &Rc<str>, text: &str, table: &DeTable<'_>) -> BTreeMap<String, Entry> {
    let entry = |value: &toml::Spanned<DeValue<'_>>, start| Entry {
        source: source.clone(),
        line: Some(line_at(text, start)),
        value: value_of(source, text, value.get_ref()),
    };
    table.iter().map(|(key, value)| (key.get_ref().to_string(), entry(value, key.span().start))).collect()
}

fn value_of(source: &Rc<str>, text: &str, value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => {
            Value::Whole(number.as_str().trim_start_matches('+').to_owned())
        }
        DeValue::Integer(_) => Value::Other("a number that is not decimal"),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Entry {
                    source: source.clone(),
                    line: Some(line_at(text, item.span().start)),
                    value: value_of(source, text, item.get_ref()),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(table_of(source, text, table)),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

/// How many letters differ between two words (Levenshtein).
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.chars().enumerate() {
            let cost = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_reported_with_their_lines() {
        let mut top = Section::parse("f.toml", "a = 1\nb = \"x\"\n[s]\nc = 99\nd = [1]\ncolour = 1\n");
        let faults = top.fault_list();
        assert_eq!(top.flag("a"), None);
        assert_eq!(top.text("b").as_deref(), Some("x"));
        let mut section = top.section("s");
        assert_eq!(section.whole("c", 1..=10), None);
        section.texts("d", 5, |_| Ok::<(), String>(()));
        section.flag("color");
        section.finish();
        top.finish();
        let shown: Vec<String> = faults.borrow().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "f.toml:1: a: is a whole number, expected true or false",
                "f.toml:4: s.c: is 99, expected 1 to 10",
                "f.toml:5: s.d: holds a whole number, expected texts",
                "f.toml:6: s.colour: unknown key; did you mean color?",
            ]
        );
    }

    #[test]
    fn what_is_not_toml_says_where() {
        let top = Section::parse("f.toml", "a = 1\nb = = 2\n");
        let fault = &top.faults()[0];
        assert_eq!(fault.line, Some(2));
        assert!(fault.message.starts_with("not valid TOML"), "{fault}");
    }
}
