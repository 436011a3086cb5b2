//! The pieces of code that depend on one field: its type, default, reading, writing and random value.

use crate::notation::{Field, Message, Type, Value, Versions};

/// In which of a message's versions a piece of code applies.
pub(crate) enum Gate {
    Always,
    Never,
    /// A condition on `version`.
    When(String),
}

impl Gate {
    pub(crate) fn of(versions: Versions, within: Versions) -> Gate {
        let shared = versions.and(within);
        if shared.is_empty() {
            Gate::Never
        } else if shared == within {
            Gate::Always
        } else if shared.min == shared.max {
            Gate::When(format!("version == {}", shared.min))
        } else if shared.max == within.max {
            Gate::When(format!("version >= {}", shared.min))
        } else if shared.min == within.min {
            Gate::When(format!("version <= {}", shared.max))
        } else {
            Gate::When(format!("({}..={}).contains(&version)", shared.min, shared.max))
        }
    }

    /// The condition of being outside, when there is an outside.
    pub(crate) fn negated(&self) -> Option<String> {
        match self {
            Gate::Always => None,
            Gate::Never => Some("true".to_owned()),
            Gate::When(condition) => Some(format!("!({condition})")),
        }
    }
}

/// What an expression stands in: the message, and how its structs are called in Rust.
pub(crate) struct Scope<'a> {
    pub(crate) message: &'a Message,
    pub(crate) names: &'a dyn Fn(&str) -> String,
}

impl Scope<'_> {
    fn flex(&self) -> &'static str {
        match Gate::of(self.message.flexible, self.message.versions) {
            Gate::Always => "true",
            Gate::Never => "false",
            Gate::When(_) => "flex",
        }
    }
    fn null(&self, field: &Field) -> Gate {
        let present = field.versions.and(self.message.versions);
        Gate::of(field.null, if present.is_empty() { self.message.versions } else { present })
    }
}

fn plain_type(ty: &Type, scope: &Scope) -> String {
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::Int8 => "i8".to_owned(),
        Type::Int16 => "i16".to_owned(),
        Type::Uint16 => "u16".to_owned(),
        Type::Int32 => "i32".to_owned(),
        Type::Int64 => "i64".to_owned(),
        Type::Float64 => "f64".to_owned(),
        Type::String => "crate::Str".to_owned(),
        Type::Bytes => "bytes::Bytes".to_owned(),
        Type::Records => "crate::Records".to_owned(),
        Type::Uuid => "crate::Uuid".to_owned(),
        Type::Struct(name) => (scope.names)(name),
        Type::Array(element) => format!("Vec<{}>", plain_type(element, scope)),
    }
}

/// Records have a null of their own; every other nullable type is an `Option`.
fn is_option(field: &Field) -> bool {
    field.is_nullable() && field.ty != Type::Records
}

pub(crate) fn rust_type(field: &Field, scope: &Scope) -> String {
    let plain = plain_type(&field.ty, scope);
    if is_option(field) { format!("Option<{plain}>") } else { plain }
}

/// Whether `Default::default()` of the Rust type is the field's default.
pub(crate) fn has_trivial_default(field: &Field) -> bool {
    match field.default {
        Value::Zero => !is_option(field),
        Value::Null => true,
        Value::True | Value::Int(_) => false,
    }
}

pub(crate) fn default_of(field: &Field, scope: &Scope) -> String {
    let zero = match &field.ty {
        Type::Bool => "false".to_owned(),
        Type::Int8 | Type::Int16 | Type::Uint16 | Type::Int32 | Type::Int64 => "0".to_owned(),
        Type::Float64 => "0.0".to_owned(),
        Type::Array(_) => "Vec::new()".to_owned(),
        ty => format!("<{} as Default>::default()", plain_type(ty, scope)),
    };
    match field.default {
        Value::Zero if is_option(field) => format!("Some({zero})"),
        Value::Zero => zero,
        Value::Null if field.ty == Type::Records => zero,
        Value::Null => "None".to_owned(),
        Value::True => "true".to_owned(),
        Value::Int(n) if n == i64::MIN => "i64::MIN".to_owned(),
        Value::Int(n) => n.to_string(),
    }
}

/// Whether the field at `place` holds something else than its default.
pub(crate) fn differs(field: &Field, place: &str, scope: &Scope) -> String {
    match (&field.ty, field.default) {
        (Type::Records, _) => format!("!{place}.is_none()"),
        (_, Value::Null) => format!("{place}.is_some()"),
        (Type::Bool, Value::True) => format!("!{place}"),
        (Type::Bool, _) => place.to_owned(),
        (Type::String | Type::Bytes | Type::Array(_), _) if is_option(field) => {
            format!("{place}.as_ref().is_none_or(|value| !value.is_empty())")
        }
        (Type::String | Type::Bytes | Type::Array(_), _) => format!("!{place}.is_empty()"),
        _ => format!("{place} != {}", default_of(field, scope)),
    }
}

/// Reads one non-null value of a type; ends in a `Result`.
fn read_plain(ty: &Type, field: &Field, scope: &Scope) -> String {
    let flex = scope.flex();
    match ty {
        Type::Bool => "r.bool()".to_owned(),
        Type::Int8 => "r.i8()".to_owned(),
        Type::Int16 => "r.i16()".to_owned(),
        Type::Uint16 => "r.u16()".to_owned(),
        Type::Int32 => "r.i32()".to_owned(),
        Type::Int64 => "r.i64()".to_owned(),
        Type::Float64 => "r.f64()".to_owned(),
        Type::Uuid => "r.uuid()".to_owned(),
        Type::String => format!("r.string({flex})"),
        Type::Bytes => format!("r.bytes({flex})"),
        Type::Records => format!("r.records({flex})"),
        Type::Struct(name) => format!("<{} as crate::Message>::decode(r, version)", (scope.names)(name)),
        Type::Array(element) => format!("r.array({flex}, {})", array_arguments(element, field, scope)),
    }
}

fn array_arguments(element: &Type, field: &Field, scope: &Scope) -> String {
    let bytes_min = scope.message.bytes_min(element, field.versions).max(1);
    format!("{bytes_min}, |r| {}", read_plain(element, field, scope))
}

fn read_nullable(field: &Field, scope: &Scope) -> String {
    let flex = scope.flex();
    match &field.ty {
        Type::String => format!("r.nullable_string({flex})?"),
        Type::Bytes => format!("r.nullable_bytes({flex})?"),
        Type::Records => format!("r.nullable_records({flex})?"),
        Type::Array(element) => {
            format!("r.nullable_array({flex}, {})?", array_arguments(element, field, scope))
        }
        ty => format!("if r.i8()? < 0 {{ None }} else {{ Some({}?) }}", read_plain(ty, field, scope)),
    }
}

/// Reads the field, in versions that have it.
pub(crate) fn read(field: &Field, scope: &Scope) -> String {
    let plain = format!("{}?", read_plain(&field.ty, field, scope));
    let plain = if is_option(field) { format!("Some({plain})") } else { plain };
    match scope.null(field) {
        Gate::Never => plain,
        Gate::Always => read_nullable(field, scope),
        Gate::When(condition) => {
            format!("if {condition} {{ {} }} else {{ {plain} }}", read_nullable(field, scope))
        }
    }
}

/// Writes one non-null value; `place` is an expression that is a reference, or a number.
fn write_plain(ty: &Type, place: &str, label: &str, scope: &Scope) -> String {
    let flex = scope.flex();
    match ty {
        Type::Bool => format!("w.bool({place});"),
        Type::Int8 => format!("w.i8({place});"),
        Type::Int16 => format!("w.i16({place});"),
        Type::Uint16 => format!("w.u16({place});"),
        Type::Int32 => format!("w.i32({place});"),
        Type::Int64 => format!("w.i64({place});"),
        Type::Float64 => format!("w.f64({place});"),
        Type::Uuid => format!("w.uuid({place});"),
        Type::String => format!("w.string({place}, {flex}, \"{label}\")?;"),
        Type::Bytes => format!("w.bytes({place}, {flex}, \"{label}\")?;"),
        Type::Records => format!("w.records({place}, {flex}, \"{label}\")?;"),
        Type::Struct(_) => format!("crate::Message::encode({place}, w, version)?;"),
        Type::Array(element) => {
            let item = if is_number(element) { "*item" } else { "item" };
            let each = write_plain(element, item, label, scope);
            format!(
                "w.array_length(({place}).len(), {flex}, \"{label}\")?;\nfor item in {place} {{\n{each}\n}}"
            )
        }
    }
}

fn is_number(ty: &Type) -> bool {
    !matches!(ty, Type::String | Type::Bytes | Type::Records | Type::Struct(_) | Type::Array(_))
}

/// Writes the field at `place`, in versions that have it.
pub(crate) fn write(field: &Field, place: &str, label: &str, scope: &Scope) -> String {
    let null = scope.null(field);
    if field.ty == Type::Records {
        return match null {
            Gate::Always => format!("w.nullable_records(&{place}, {}, \"{label}\")?;", scope.flex()),
            _ => write_plain(&field.ty, &format!("&{place}"), label, scope),
        };
    }
    if !is_option(field) {
        let place = if is_number(&field.ty) { place.to_owned() } else { format!("&{place}") };
        return write_plain(&field.ty, &place, label, scope);
    }
    let is_struct = matches!(field.ty, Type::Struct(_));
    let none = match &field.ty {
        Type::String => format!("w.null_string({})", scope.flex()),
        Type::Struct(_) => "w.i8(-1)".to_owned(),
        _ => format!("w.null_bytes({})", scope.flex()),
    };
    let refused = format!("return Err(crate::EncodeError::Null {{ field: \"{label}\", version }})");
    let (none, mark) = match (&null, is_struct) {
        (Gate::Never, _) => (format!("None => {refused},"), String::new()),
        (Gate::Always, true) => (format!("None => {none},"), "w.i8(1);\n".to_owned()),
        (Gate::Always, false) => (format!("None => {none},"), String::new()),
        (Gate::When(condition), is_struct) => (
            format!("None if {condition} => {none},\nNone => {refused},"),
            if is_struct { format!("if {condition} {{\nw.i8(1);\n}}\n") } else { String::new() },
        ),
    };
    format!(
        "match &{place} {{\nSome(value) => {{\n{mark}{}\n}}\n{none}\n}}",
        write_plain(&field.ty, "value", label, scope)
    )
}

fn random_plain(ty: &Type, scope: &Scope) -> String {
    match ty {
        Type::Bool => "rng.bool()".to_owned(),
        Type::Int8 => "rng.i8()".to_owned(),
        Type::Int16 => "rng.i16()".to_owned(),
        Type::Uint16 => "rng.u16()".to_owned(),
        Type::Int32 => "rng.i32()".to_owned(),
        Type::Int64 => "rng.i64()".to_owned(),
        Type::Float64 => "rng.f64()".to_owned(),
        Type::Uuid => "rng.uuid()".to_owned(),
        Type::String => "rng.string()".to_owned(),
        Type::Bytes => "rng.bytes()".to_owned(),
        Type::Records => "rng.records()".to_owned(),
        Type::Struct(name) => {
            format!("<{} as crate::testing::Arbitrary>::arbitrary(rng, version)", (scope.names)(name))
        }
        Type::Array(element) => format!("rng.array(|rng| {})", random_plain(element, scope)),
    }
}

/// A random value that the field may have in `version`.
pub(crate) fn random(field: &Field, scope: &Scope) -> String {
    let plain = random_plain(&field.ty, scope);
    let (null, plain) = match is_option(field) {
        true => ("None", format!("Some({plain})")),
        false if field.ty == Type::Records => ("crate::Records::None", plain),
        false => return plain,
    };
    match scope.null(field) {
        Gate::Never => plain,
        Gate::Always => format!("if rng.one_in(4) {{ {null} }} else {{ {plain} }}"),
        Gate::When(condition) => format!("if ({condition}) && rng.one_in(4) {{ {null} }} else {{ {plain} }}"),
    }
}
