//! Rust from notation: one struct per message and per struct, with decoding, encoding, defaults and random values.
//!
//! The output is read by the compiler and, when something is odd, by people: one statement a line, full paths for
//! what is not in the module, locals prefixed `f_` so that no field's name can collide with a parameter.

use std::fmt::Write;

use crate::notation::{Field, File, Kind, Message, Value, Versions};

#[path = "expression.rs"]
mod expression;
use expression::{Gate, Scope, default_of, differs, random, read, rust_type, write};

/// Words that a field may be called and Rust keeps for itself.
const KEYWORDS: &[&str] =
    &["match", "type", "ref", "move", "loop", "where", "use", "mod", "in", "fn", "self", "struct"];

/// One module and what it was made of.
pub(crate) type Module = (String, File);

/// `ThrottleTimeMs` as `throttle_time_ms`.
pub(crate) fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, c) in chars.iter().enumerate() {
        let after_small = at > 0 && !chars[at - 1].is_ascii_uppercase();
        let before_small = at > 0 && chars.get(at + 1).is_some_and(|next| next.is_ascii_lowercase());
        if c.is_ascii_uppercase() && (after_small || before_small) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn member(name: &str) -> String {
    let name = snake(name);
    if KEYWORDS.contains(&name.as_str()) { format!("r#{name}") } else { name }
}

/// A struct of a file: the message's own, or one below it.
struct Item<'a> {
    message: &'a Message,
    kafka_name: &'a str,
    rust_name: String,
    fields: &'a [Field],
}

fn items(file: &File) -> Vec<Item<'_>> {
    let mut items: Vec<Item> = Vec::new();
    for message in &file.messages {
        let own = (message.name.as_str(), message.fields.as_slice());
        let structs = message.structs.iter().map(|s| (s.name.as_str(), s.fields.as_slice()));
        for (kafka_name, fields) in std::iter::once(own).chain(structs) {
            let rust_name = rust_name(file, message, kafka_name);
            if !items.iter().any(|item| item.rust_name == rust_name) {
                items.push(Item { message, kafka_name, rust_name, fields });
            }
        }
    }
    items
}

/// Messages of one file may have structs of one name. The same in all, they are one struct; else each gets the last
/// word of its message's name in front, which is `Request` or `Response` where the file is an API's.
fn rust_name(file: &File, message: &Message, name: &str) -> String {
    let clashes = |other: &Message| {
        let theirs = other.structs.iter().any(|s| s.name == name);
        theirs && !(other.flexible == message.flexible && same(message, other, name))
    };
    match file.messages.iter().any(clashes) {
        true => {
            let last_word = message.name.rfind(|c: char| c.is_ascii_uppercase()).unwrap_or(0);
            format!("{}{name}", &message.name[last_word..])
        }
        false => name.to_owned(),
    }
}

fn same(a: &Message, b: &Message, name: &str) -> bool {
    let (left, right) = (a.fields_of(name), b.fields_of(name));
    let inner = |f: &Field| f.ty.struct_name().is_none_or(|name| same(a, b, name));
    left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l.same_as(r) && inner(l))
}

/// The code of one file's module.
pub(crate) fn module(file: &File) -> String {
    let mut out = String::new();
    for item in items(file) {
        let names = |name: &str| rust_name(file, item.message, name);
        let scope = Scope { message: item.message, names: &names };
        definition(&mut out, &item, &scope);
        defaults(&mut out, &item, &scope);
        codec(&mut out, &item, &scope);
        arbitrary(&mut out, &item, &scope);
    }
    if let (Some(api), [request, response]) = (&file.api, &file.messages[..]) {
        let stable = api.stable.unwrap_or(request.versions);
        put(&mut out, &format!("impl crate::Request for {} {{", request.name));
        put(&mut out, &format!("const KEY: crate::ApiKey = crate::ApiKey::{};", api.name));
        put(&mut out, &format!("const VERSIONS: crate::VersionRange = {};", range(request.versions)));
        put(&mut out, &format!("const STABLE_VERSIONS: crate::VersionRange = {};", range(stable)));
        put(&mut out, &format!("const FLEXIBLE_FROM: i16 = {};", flexible_from(request)));
        put(&mut out, &format!("type Response = {};\n}}", response.name));
    }
    for data in file.messages.iter().filter(|m| m.kind == Kind::Data) {
        put(&mut out, &format!("impl crate::Data for {} {{", data.name));
        put(&mut out, &format!("const VERSIONS: crate::VersionRange = {};\n}}", range(data.versions)));
    }
    out
}

fn put(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn range(versions: Versions) -> String {
    format!("crate::VersionRange {{ min: {}, max: {} }}", versions.min, versions.max)
}

fn flexible_from(message: &Message) -> String {
    if message.flexible.is_empty() { "i16::MAX".to_owned() } else { message.flexible.min.to_string() }
}

fn describe(field: &Field) -> String {
    let mut text = format!("`{}`, {}, versions {}", field.name, field.ty, field.versions);
    if field.is_nullable() {
        let _ = write!(text, ", null in {}", field.null);
    }
    if let Some((tag, versions)) = field.tag {
        let _ = write!(text, ", tag {tag} in {versions}");
    }
    match field.default {
        Value::Zero => {}
        Value::Null => text.push_str(", default null"),
        Value::True => text.push_str(", default true"),
        Value::Int(n) => {
            let _ = write!(text, ", default {n}");
        }
    }
    text
}

fn definition(out: &mut String, item: &Item, scope: &Scope) {
    let trivial = item.fields.iter().all(expression::has_trivial_default);
    put(out, &format!("/// Kafka's `{}`, versions {}.", item.kafka_name, item.message.versions));
    put(
        out,
        if trivial {
            "#[derive(Clone, Debug, PartialEq, Default)]"
        } else {
            "#[derive(Clone, Debug, PartialEq)]"
        },
    );
    put(out, &format!("pub struct {} {{", item.rust_name));
    for field in item.fields {
        put(out, &format!("/// {}.", describe(field)));
        put(out, &format!("pub {}: {},", member(&field.name), rust_type(field, scope)));
    }
    put(out, "}");
}

fn defaults(out: &mut String, item: &Item, scope: &Scope) {
    if item.fields.iter().all(expression::has_trivial_default) {
        return;
    }
    put(out, &format!("impl Default for {} {{\nfn default() -> Self {{\nSelf {{", item.rust_name));
    for field in item.fields {
        put(out, &format!("{}: {},", member(&field.name), default_of(field, scope)));
    }
    put(out, "}\n}\n}");
}

/// `let flex = ...` where a message has flexible versions beside others.
fn flex(out: &mut String, item: &Item) {
    if let Gate::When(condition) = Gate::of(item.message.flexible, item.message.versions) {
        put(out, &format!("let flex = {condition};"));
    }
}

fn codec(out: &mut String, item: &Item, scope: &Scope) {
    let name = &item.rust_name;
    let top = (item.kafka_name == item.message.name).then_some(item.message.versions);
    put(out, &format!("impl crate::Message for {name} {{"));
    put(out, "fn decode(r: &mut crate::Reader, version: i16) -> Result<Self, crate::DecodeError> {");
    if let Some(versions) = top {
        put(out, &format!("if !({}..={}).contains(&version) {{", versions.min, versions.max));
        put(out, &format!("return Err(crate::DecodeError::Version {{ message: \"{name}\", version }});\n}}"));
    }
    flex(out, item);
    decode_fields(out, item, scope);
    put(out, "}");
    put(out, "fn encode(&self, w: &mut crate::Writer, version: i16) -> Result<(), crate::EncodeError> {");
    if let Some(versions) = top {
        put(out, &format!("if !({}..={}).contains(&version) {{", versions.min, versions.max));
        put(out, &format!("return Err(crate::EncodeError::Version {{ message: \"{name}\", version }});\n}}"));
    }
    flex(out, item);
    encode_fields(out, item, scope);
    put(out, "Ok(())\n}\n}");
}

/// Where a field stands among the plain ones, and where among the tagged ones.
fn gates(field: &Field, message: &Message) -> (Gate, Gate) {
    let tagged = field.tagged().and(message.versions);
    let mut plain = field.versions.and(message.versions);
    if !tagged.is_empty() {
        plain = plain.and(Versions { min: 0, max: tagged.min - 1 });
    }
    (Gate::of(plain, message.versions), Gate::of(tagged, message.versions))
}

fn decode_fields(out: &mut String, item: &Item, scope: &Scope) {
    let mut arms = String::new();
    for field in item.fields {
        let local = format!("f_{}", snake(&field.name));
        let (plain, tagged) = gates(field, item.message);
        let mutable = if matches!(tagged, Gate::Never) { "" } else { "mut " };
        let default = default_of(field, scope);
        let value = match plain {
            Gate::Always => read(field, scope),
            Gate::Never => default,
            Gate::When(condition) => {
                format!("if {condition} {{ {} }} else {{ {default} }}", read(field, scope))
            }
        };
        put(out, &format!("let {mutable}{local}: {} = {value};", rust_type(field, scope)));
        let Some((tag, _)) = field.tag else { continue };
        match tagged {
            Gate::Never => {}
            Gate::Always => put(&mut arms, &format!("{tag} => {local} = {},", read(field, scope))),
            Gate::When(condition) => {
                put(&mut arms, &format!("{tag} if {condition} => {local} = {},", read(field, scope)));
            }
        }
    }
    let section = match arms.is_empty() {
        true => "r.skip_tagged_fields()?;".to_owned(),
        false => {
            format!(
                "r.tagged_fields(|r, tag| {{\nmatch tag {{\n{arms}_ => return Ok(false),\n}}\nOk(true)\n}})?;"
            )
        }
    };
    match Gate::of(item.message.flexible, item.message.versions) {
        Gate::Always => put(out, &section),
        Gate::When(_) => put(out, &format!("if flex {{\n{section}\n}}")),
        Gate::Never => {}
    }
    put(out, "Ok(Self {");
    for field in item.fields {
        put(out, &format!("{}: f_{},", member(&field.name), snake(&field.name)));
    }
    put(out, "})");
}

fn encode_fields(out: &mut String, item: &Item, scope: &Scope) {
    let (mut tags, mut count) = (Vec::new(), String::new());
    for field in item.fields {
        let place = format!("self.{}", member(&field.name));
        let label = format!("{}.{}", item.rust_name, field.name);
        let (plain, tagged) = gates(field, item.message);
        if let Some((tag, _)) = field.tag.filter(|_| !matches!(tagged, Gate::Never)) {
            let differs = differs(field, &place, scope);
            let condition = match &tagged {
                Gate::When(condition) => format!("{condition} && {differs}"),
                _ => differs,
            };
            put(out, &format!("let tag_{tag} = {condition};"));
            let _ = write!(count, "{}u32::from(tag_{tag})", if count.is_empty() { "" } else { " + " });
            let body = write(field, &place, &label, scope);
            tags.push((tag, format!("if tag_{tag} {{\nw.tagged({tag}, |w| {{\n{body}\nOk(())\n}})?;\n}}")));
        }
        let absent = Gate::of(field.versions, item.message.versions).negated();
        if let (Some(condition), false) = (absent, field.ignorable) {
            let differs = differs(field, &place, scope);
            put(out, &format!("if {condition} && {differs} {{"));
            put(
                out,
                &format!(
                    "return Err(crate::EncodeError::NotInVersion {{ field: \"{label}\", version }});\n}}"
                ),
            );
        }
        match plain {
            Gate::Always => put(out, &write(field, &place, &label, scope)),
            Gate::Never => {}
            Gate::When(condition) => {
                put(out, &format!("if {condition} {{\n{}\n}}", write(field, &place, &label, scope)));
            }
        }
    }
    tags.sort();
    let count = if count.is_empty() { "0" } else { &count };
    let tags: Vec<String> = tags.into_iter().map(|(_, code)| code).collect();
    let section = format!("w.uvarint({count});\n{}", tags.join("\n"));
    match Gate::of(item.message.flexible, item.message.versions) {
        Gate::Always => put(out, &section),
        Gate::When(_) => put(out, &format!("if flex {{\n{section}\n}}")),
        Gate::Never => {}
    }
}

fn arbitrary(out: &mut String, item: &Item, scope: &Scope) {
    put(
        out,
        &format!("#[cfg(feature = \"testing\")]\nimpl crate::testing::Arbitrary for {} {{", item.rust_name),
    );
    put(out, "fn arbitrary(rng: &mut crate::testing::Rng, version: i16) -> Self {\nSelf {");
    for field in item.fields {
        let default = default_of(field, scope);
        let mut value = random(field, scope);
        if field.tag.is_some() {
            value = format!("if rng.one_in(3) {{ {default} }} else {{ {value} }}");
        }
        let value = match Gate::of(field.versions, item.message.versions) {
            Gate::Always => value,
            Gate::Never => default,
            Gate::When(condition) => format!("if {condition} {{ {value} }} else {{ {default} }}"),
        };
        put(out, &format!("{}: {value},", member(&field.name)));
    }
    put(out, "}\n}\n}");
}

/// The module that holds all modules.
pub(crate) fn index(modules: &[Module]) -> String {
    let mut out = String::new();
    for (module, file) in modules {
        let title = file.api.as_ref().map_or_else(
            || file.messages.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
            |api| format!("{}, API key {}", api.name, api.key),
        );
        put(&mut out, &format!("/// {title}."));
        put(
            &mut out,
            &format!("pub mod {module} {{\ninclude!(concat!(env!(\"OUT_DIR\"), \"/{module}.rs\"));\n}}"),
        );
    }
    out
}

/// Every API with its request message, by key.
fn apis(modules: &[Module]) -> Vec<(&crate::notation::Api, &Message, &str)> {
    let mut apis: Vec<_> = modules
        .iter()
        .filter_map(|(module, file)| Some((file.api.as_ref()?, file.messages.first()?, module.as_str())))
        .collect();
    apis.sort_by_key(|(api, ..)| api.key);
    apis
}

/// Two files with one key would shadow each other silently.
pub(crate) fn check_keys(modules: &[Module]) -> Result<(), String> {
    let apis = apis(modules);
    match apis.windows(2).find(|pair| pair[0].0.key == pair[1].0.key) {
        Some(pair) => Err(format!("{}.kmsg and {}.kmsg have the same key", pair[0].2, pair[1].2)),
        None => Ok(()),
    }
}

/// `enum ApiKey` and its table.
pub(crate) fn api_keys(modules: &[Module]) -> String {
    let apis = apis(modules);
    let mut out = String::new();
    put(&mut out, "/// The APIs that the codec knows; the number is the key on the wire.");
    put(
        &mut out,
        "#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(i16)]\npub enum ApiKey {",
    );
    for (api, ..) in &apis {
        put(&mut out, &format!("/// `{}`.\n{} = {},", api.name, api.name, api.key));
    }
    put(&mut out, "}\nimpl ApiKey {\n/// Every key, in order.\npub const ALL: &'static [ApiKey] = &[");
    apis.iter().for_each(|(api, ..)| put(&mut out, &format!("ApiKey::{},", api.name)));
    put(
        &mut out,
        "];\n/// The key with this number.\npub const fn from_i16(key: i16) -> Option<ApiKey> {\nSome(match key {",
    );
    apis.iter().for_each(|(api, ..)| put(&mut out, &format!("{} => ApiKey::{},", api.key, api.name)));
    put(&mut out, "_ => return None,\n})\n}");
    let table = |out: &mut String, head: &str, value: &dyn Fn(&crate::notation::Api, &Message) -> String| {
        put(out, &format!("{head} {{\nmatch self {{"));
        apis.iter().for_each(|(api, m, _)| put(out, &format!("ApiKey::{} => {},", api.name, value(api, m))));
        put(out, "}\n}");
    };
    let head = "/// Kafka's name of the API.\npub const fn name(self) -> &'static str";
    table(&mut out, head, &|api, _| format!("\"{}\"", api.name));
    let head = "/// Versions that the codec can read and write.\npub const fn versions(self) -> VersionRange";
    table(&mut out, head, &|_, m| range(m.versions));
    let head =
        "/// Versions that Kafka does not call unstable.\npub const fn stable_versions(self) -> VersionRange";
    table(&mut out, head, &|api, m| range(api.stable.unwrap_or(m.versions)));
    let head = "/// First version with compact lengths and tagged fields; `i16::MAX` when there is none.\npub const fn flexible_from(self) -> i16";
    table(&mut out, head, &|_, m| flexible_from(m));
    put(&mut out, "}");
    out
}

/// The list of all messages that tests walk over.
pub(crate) fn cases(modules: &[Module]) -> String {
    let mut out = String::from(
        "/// Every message of every API, requests and responses, and the messages inside bytes.\n",
    );
    put(&mut out, "pub const CASES: &[Case] = &[");
    for (module, file) in modules {
        for message in &file.messages {
            let api = file
                .api
                .as_ref()
                .map_or_else(|| "None".to_owned(), |api| format!("Some(ApiKey::{})", api.name));
            let path = format!("crate::messages::{module}::{}", message.name);
            let versions = range(message.versions);
            put(
                &mut out,
                &format!(
                    "Case::of::<{path}>(\"{}\", {api}, Kind::{:?}, {versions}),",
                    message.name, message.kind
                ),
            );
        }
    }
    put(&mut out, "];");
    out
}
