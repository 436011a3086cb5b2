//! The notation that messages are declared in (`messages/*.kmsg`), and its parser.
//!
//! ```text
//! # A comment, to the end of the line.
//! api NAME KEY [stable VERSIONS]          one per file; without it the file holds `data` only
//! request VERSIONS flexible VERSIONS      likewise `response`; `flexible none` when no version is
//! data NAME VERSIONS flexible VERSIONS    a message that travels inside other bytes
//!   FIELD TYPE VERSIONS [null VERSIONS] [tag NUMBER VERSIONS] [ignorable] [= DEFAULT]
//!     FIELD ...                           fields of the struct that the line above names
//!   struct NAME                           a struct that several fields use
//!     FIELD ...
//! ```
//! Two spaces of indentation per level. VERSIONS is `3`, `3-5`, `3+` or `none`. TYPE is one of `bool int8 int16
//! uint16 int32 int64 float64 string bytes records uuid`, a struct's name, or one of them behind `[]`. Without a
//! default a field is false, zero, empty; `null` is written out, except for records, which begin as null.

use std::fmt;

#[path = "check.rs"]
mod check;

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotationError {
    pub(crate) file: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl std::error::Error for NotationError {}

impl fmt::Display for NotationError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// A range of versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) min: i16,
    pub(crate) max: i16,
}

impl Versions {
    pub(crate) const NONE: Versions = Versions { min: 0, max: -1 };

    pub(crate) fn is_empty(self) -> bool {
        self.min > self.max
    }
    pub(crate) fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }
    pub(crate) fn and(self, other: Versions) -> Versions {
        let both = Versions { min: self.min.max(other.min), max: self.max.min(other.max) };
        if both.is_empty() { Versions::NONE } else { both }
    }
    fn parse(word: &str) -> Option<Versions> {
        let number = |text: &str| text.parse::<i16>().ok().filter(|n| *n >= 0);
        let range = if word == "none" {
            return Some(Versions::NONE);
        } else if let Some(min) = word.strip_suffix('+') {
            Versions { min: number(min)?, max: i16::MAX }
        } else if let Some((min, max)) = word.split_once('-') {
            Versions { min: number(min)?, max: number(max)? }
        } else {
            Versions { min: number(word)?, max: number(word)? }
        };
        (!range.is_empty()).then_some(range)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            _ if self.is_empty() => write!(out, "none"),
            (min, i16::MAX) => write!(out, "{min}+"),
            (min, max) if min == max => write!(out, "{min}"),
            (min, max) => write!(out, "{min}-{max}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    String,
    Bytes,
    Records,
    Uuid,
    Struct(String),
    Array(Box<Type>),
}

impl Type {
    fn parse(word: &str) -> Option<Type> {
        if let Some(element) = word.strip_prefix("[]") {
            let element = Type::parse(element)?;
            return (!matches!(element, Type::Array(_) | Type::Records))
                .then(|| Type::Array(Box::new(element)));
        }
        Some(match word {
            "bool" => Type::Bool,
            "int8" => Type::Int8,
            "int16" => Type::Int16,
            "uint16" => Type::Uint16,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "float64" => Type::Float64,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "records" => Type::Records,
            "uuid" => Type::Uuid,
            name if is_struct_name(name) => Type::Struct(name.to_owned()),
            _ => return None,
        })
    }
    /// The struct that the type is, or is an array of.
    pub(crate) fn struct_name(&self) -> Option<&str> {
        match self {
            Type::Struct(name) => Some(name),
            Type::Array(element) => element.struct_name(),
            _ => None,
        }
    }
    fn may_be_null(&self) -> bool {
        matches!(self, Type::String | Type::Bytes | Type::Records | Type::Struct(_) | Type::Array(_))
    }
    fn int_range(&self) -> Option<(i64, i64)> {
        match self {
            Type::Int8 => Some((i8::MIN.into(), i8::MAX.into())),
            Type::Int16 => Some((i16::MIN.into(), i16::MAX.into())),
            Type::Uint16 => Some((0, u16::MAX.into())),
            Type::Int32 => Some((i32::MIN.into(), i32::MAX.into())),
            Type::Int64 => Some((i64::MIN, i64::MAX)),
            _ => None,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Bool => "bool",
            Type::Int8 => "int8",
            Type::Int16 => "int16",
            Type::Uint16 => "uint16",
            Type::Int32 => "int32",
            Type::Int64 => "int64",
            Type::Float64 => "float64",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Records => "records",
            Type::Uuid => "uuid",
            Type::Struct(name) => name,
            Type::Array(element) => return write!(out, "[]{element}"),
        };
        write!(out, "{name}")
    }
}

/// What a field is when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// False, zero, empty, or a struct of defaults.
    Zero,
    Null,
    True,
    Int(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// Versions that have the field.
    pub(crate) versions: Versions,
    /// Versions in which it may be null.
    pub(crate) null: Versions,
    /// Its tag, and the versions in which it is a tagged field.
    pub(crate) tag: Option<(u32, Versions)>,
    /// Whether a value is dropped silently in versions that do not have the field.
    pub(crate) ignorable: bool,
    pub(crate) default: Value,
    line: usize,
}

impl Field {
    /// Versions in which the field is tagged.
    pub(crate) fn tagged(&self) -> Versions {
        self.tag.map_or(Versions::NONE, |(_, versions)| versions)
    }
    /// Whether null is a value of the field in any version.
    pub(crate) fn is_nullable(&self) -> bool {
        !self.null.is_empty()
    }
    /// The same shape: what makes two structs of one name interchangeable.
    pub(crate) fn same_as(&self, other: &Field) -> bool {
        Field { line: 0, ..self.clone() } == Field { line: 0, ..other.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) versions: Versions,
    /// Versions with compact lengths and tagged fields.
    pub(crate) flexible: Versions,
    pub(crate) fields: Vec<Field>,
    /// Every struct below the message, in order of appearance.
    pub(crate) structs: Vec<Struct>,
    line: usize,
}

impl Message {
    pub(crate) fn fields_of(&self, name: &str) -> &[Field] {
        self.structs.iter().find(|s| s.name == name).map_or(&[], |s| &s.fields)
    }

    /// The fewest bytes that an element of type `ty` takes in any of `versions`.
    pub(crate) fn bytes_min(&self, ty: &Type, versions: Versions) -> usize {
        let versions = versions.and(self.versions);
        (versions.min..=versions.max).map(|version| self.bytes_min_in(ty, version)).min().unwrap_or(0)
    }

    fn bytes_min_in(&self, ty: &Type, version: i16) -> usize {
        let flexible = self.flexible.contains(version);
        match ty {
            Type::Bool | Type::Int8 => 1,
            Type::Int16 | Type::Uint16 => 2,
            Type::Int32 => 4,
            Type::Int64 | Type::Float64 => 8,
            Type::Uuid => 16,
            Type::String if !flexible => 2,
            Type::Bytes | Type::Records | Type::Array(_) if !flexible => 4,
            Type::String | Type::Bytes | Type::Records | Type::Array(_) => 1,
            Type::Struct(name) => {
                let plain = |f: &&Field| f.versions.contains(version) && !f.tagged().contains(version);
                let field = |f: &Field| match f.ty {
                    Type::Struct(_) if f.null.contains(version) => 1,
                    _ => self.bytes_min_in(&f.ty, version),
                };
                self.fields_of(name).iter().filter(plain).map(field).sum::<usize>() + usize::from(flexible)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Api {
    pub(crate) name: String,
    pub(crate) key: i16,
    /// Versions that Kafka does not call unstable.
    pub(crate) stable: Option<Versions>,
}

/// One `.kmsg` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) api: Option<Api>,
    pub(crate) messages: Vec<Message>,
}

fn is_struct_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_field_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric())
}

struct Line<'a> {
    number: usize,
    level: usize,
    words: Vec<&'a str>,
}

/// Parses the text of the file called `file`, and checks what the generator relies on.
pub(crate) fn parse(file: &str, text: &str) -> Result<File, NotationError> {
    let mut parser = Parser { file, lines: Vec::new(), at: 0 };
    for (index, text) in text.lines().enumerate() {
        let code = text.split('#').next().unwrap_or_default().trim_end();
        let words: Vec<&str> = code.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let spaces = code.len() - code.trim_start_matches(' ').len();
        if spaces % 2 != 0 || code[spaces..].starts_with('\t') {
            return Err(parser.error(index + 1, "indentation is not two spaces per level"));
        }
        parser.lines.push(Line { number: index + 1, level: spaces / 2, words });
    }
    let parsed = parser.file()?;
    check::file(file, &parsed)?;
    Ok(parsed)
}

struct Parser<'a> {
    file: &'a str,
    lines: Vec<Line<'a>>,
    at: usize,
}

type Parsed<T> = Result<T, NotationError>;

impl<'a> Parser<'a> {
    fn error(&self, line: usize, what: impl Into<String>) -> NotationError {
        NotationError { file: self.file.to_owned(), line, what: what.into() }
    }

    fn versions(&self, line: usize, word: Option<&&str>) -> Parsed<Versions> {
        let word = word.ok_or_else(|| self.error(line, "versions are missing"))?;
        Versions::parse(word).ok_or_else(|| self.error(line, format!("`{word}` is not a range of versions")))
    }

    /// The next line, when it is at `level`.
    fn take(&mut self, level: usize) -> Option<(usize, Vec<&'a str>)> {
        let line = self.lines.get(self.at).filter(|line| line.level == level)?;
        self.at += 1;
        Some((line.number, line.words.clone()))
    }

    fn file(&mut self) -> Parsed<File> {
        let mut file = File { api: None, messages: Vec::new() };
        while let Some((line, words)) = self.take(0) {
            match words[0] {
                "api" if file.api.is_none() && file.messages.is_empty() => {
                    file.api = Some(self.api(line, &words)?)
                }
                "api" => return Err(self.error(line, "`api` comes once, and first")),
                _ => {
                    let message = self.message(line, &words, file.api.as_ref())?;
                    file.messages.push(message);
                }
            }
        }
        match self.lines.get(self.at) {
            Some(line) => Err(self.error(line.number, "the line is indented deeper than what it belongs to")),
            None => Ok(file),
        }
    }

    fn api(&self, line: usize, words: &[&str]) -> Parsed<Api> {
        let (name, key) = match words {
            [_, name, key] | [_, name, key, "stable", _] => (*name, *key),
            _ => return Err(self.error(line, "wanted: api NAME KEY [stable VERSIONS]")),
        };
        if !is_struct_name(name) {
            return Err(self.error(line, format!("`{name}` is not a name")));
        }
        let key = key.parse::<i16>().ok().filter(|key| *key >= 0);
        let key = key.ok_or_else(|| self.error(line, format!("`{}` is not an API key", words[2])))?;
        let stable = words.get(4).map(|word| self.versions(line, Some(word))).transpose()?;
        Ok(Api { name: name.to_owned(), key, stable })
    }

    fn message(&mut self, line: usize, words: &[&str], api: Option<&Api>) -> Parsed<Message> {
        let (kind, name, rest) = match (words, api) {
            (["request", rest @ ..], Some(api)) => (Kind::Request, format!("{}Request", api.name), rest),
            (["response", rest @ ..], Some(api)) => (Kind::Response, format!("{}Response", api.name), rest),
            (["data", name, rest @ ..], _) if is_struct_name(name) => (Kind::Data, (*name).to_owned(), rest),
            (["request" | "response", ..], None) => {
                return Err(self.error(line, format!("`{}` comes before `api`", words[0])));
            }
            _ => return Err(self.error(line, "wanted: api, request, response, or data NAME")),
        };
        let ([versions, "flexible", flexible], true) = (rest, rest.len() == 3) else {
            return Err(self.error(line, "wanted: VERSIONS flexible VERSIONS"));
        };
        let versions = self.versions(line, Some(versions))?;
        let flexible = self.versions(line, Some(flexible))?;
        let mut structs = Vec::new();
        let fields = self.fields(1, &mut structs)?;
        Ok(Message { kind, name, versions, flexible, fields, structs, line })
    }

    /// Fields at `level`, and the structs below them; `struct` lines only at the message's own level.
    fn fields(&mut self, level: usize, structs: &mut Vec<Struct>) -> Parsed<Vec<Field>> {
        let mut fields = Vec::new();
        while let Some((line, words)) = self.take(level) {
            if let ["struct", name] = words[..] {
                if level != 1 || !is_struct_name(name) {
                    return Err(self.error(line, "`struct NAME` stands directly below a message"));
                }
                let name = name.to_owned();
                let inner = self.fields(level + 1, structs)?;
                structs.push(Struct { name, fields: inner, line });
                continue;
            }
            let field = self.field(line, &words)?;
            if self.lines.get(self.at).is_some_and(|next| next.level == level + 1) {
                let Some(name) = field.ty.struct_name().map(str::to_owned) else {
                    return Err(
                        self.error(line + 1, format!("`{}` is {}, it has no fields", field.name, field.ty))
                    );
                };
                let place = structs.len();
                let inner = self.fields(level + 1, structs)?;
                structs.insert(place, Struct { name, fields: inner, line });
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn field(&self, line: usize, words: &[&str]) -> Parsed<Field> {
        let (name, ty) = match words {
            [name, ty, _, ..] if is_field_name(name) => (*name, *ty),
            _ => return Err(self.error(line, "wanted: FIELD TYPE VERSIONS ...")),
        };
        let ty = Type::parse(ty).ok_or_else(|| self.error(line, format!("`{ty}` is not a type")))?;
        let default = if ty == Type::Records { Value::Null } else { Value::Zero };
        let versions = self.versions(line, words.get(2))?;
        let name = name.to_owned();
        let mut field =
            Field { name, ty, versions, null: Versions::NONE, tag: None, ignorable: false, default, line };
        let mut rest = &words[3..];
        while let Some(word) = rest.first() {
            let used = match *word {
                "null" => {
                    field.null = self.versions(line, rest.get(1))?;
                    2
                }
                "tag" => {
                    let number = rest.get(1).and_then(|word| word.parse().ok());
                    let number = number.ok_or_else(|| self.error(line, "wanted: tag NUMBER VERSIONS"))?;
                    field.tag = Some((number, self.versions(line, rest.get(2))?));
                    3
                }
                "ignorable" => {
                    field.ignorable = true;
                    1
                }
                "=" => {
                    field.default = self.default(line, &field, rest.get(1).copied().unwrap_or_default())?;
                    2
                }
                other => return Err(self.error(line, format!("`{other}` is not understood"))),
            };
            rest = &rest[used..];
        }
        Ok(field)
    }

    fn default(&self, line: usize, field: &Field, word: &str) -> Parsed<Value> {
        let value = match (word, field.ty.int_range()) {
            ("null", _) if field.is_nullable() => Some(Value::Null),
            ("true", _) if field.ty == Type::Bool => Some(Value::True),
            ("false", _) if field.ty == Type::Bool => Some(Value::Zero),
            (word, Some((min, max))) => word.parse().ok().filter(|n| (min..=max).contains(n)).map(Value::Int),
            _ => None,
        };
        value.ok_or_else(|| self.error(line, format!("`{word}` is not a value of `{}`", field.name)))
    }
}
