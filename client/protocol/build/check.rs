//! What the generator relies on, so that a slip in a file is an error with a line and not strange code.

use super::{Field, File, Kind, Message, NotationError, Parsed, Type};

pub(crate) fn file(file: &str, parsed: &File) -> Parsed<()> {
    for message in &parsed.messages {
        self::message(message).map_err(|(line, what)| NotationError { file: file.to_owned(), line, what })?;
    }
    let end = |line, what: &str| Err(NotationError { file: file.to_owned(), line, what: what.to_owned() });
    match (&parsed.api, &parsed.messages[..]) {
        (None, []) => end(1, "the file declares nothing"),
        (None, _) => Ok(()),
        (Some(_), [request, response])
            if (request.kind, response.kind) == (Kind::Request, Kind::Response) =>
        {
            match (request.versions, request.flexible) == (response.versions, response.flexible) {
                true => Ok(()),
                false => end(response.line, "request and response differ in their versions"),
            }
        }
        (Some(_), _) => end(1, "an api has one request and one response"),
    }
}

type Checked = Result<(), (usize, String)>;

fn message(message: &Message) -> Checked {
    if message.versions.is_empty() {
        return Err((message.line, format!("{} has no versions", message.name)));
    }
    if !message.flexible.is_empty() && message.flexible.max < message.versions.max {
        return Err((message.line, "flexible versions end before the message's".to_owned()));
    }
    for (index, defined) in message.structs.iter().enumerate() {
        if defined.name == message.name || message.structs[..index].iter().any(|s| s.name == defined.name) {
            return Err((defined.line, format!("struct {} is defined twice", defined.name)));
        }
        if defined.fields.is_empty() {
            return Err((defined.line, format!("struct {} has no fields", defined.name)));
        }
    }
    nesting(message, &message.fields, &mut Vec::new())?;
    for defined in &message.structs {
        fields(message, &defined.fields)?;
    }
    fields(message, &message.fields)?;
    used(message)
}

/// Every struct that is named is defined, and none holds itself.
fn nesting<'m>(message: &'m Message, fields: &'m [Field], path: &mut Vec<&'m str>) -> Checked {
    for field in fields {
        let Some(name) = field.ty.struct_name() else { continue };
        if message.fields_of(name).is_empty() {
            return Err((field.line, format!("struct {name} is not defined")));
        }
        if path.contains(&name) {
            return Err((field.line, format!("struct {name} holds itself")));
        }
        path.push(name);
        nesting(message, message.fields_of(name), path)?;
        path.pop();
    }
    Ok(())
}

fn used(message: &Message) -> Checked {
    let mut reached: Vec<&str> = Vec::new();
    let mut next: Vec<&[Field]> = vec![&message.fields];
    while let Some(fields) = next.pop() {
        for name in fields.iter().filter_map(|f| f.ty.struct_name()) {
            if !reached.contains(&name) {
                reached.push(name);
                next.push(message.fields_of(name));
            }
        }
    }
    match message.structs.iter().find(|s| !reached.contains(&s.name.as_str())) {
        Some(idle) => Err((idle.line, format!("struct {} is never used", idle.name))),
        None => Ok(()),
    }
}

fn fields(message: &Message, fields: &[Field]) -> Checked {
    let mut tags: Vec<u32> = fields.iter().filter_map(|f| f.tag.map(|(tag, _)| tag)).collect();
    tags.sort_unstable();
    for (index, field) in fields.iter().enumerate() {
        let refuse = |what: &str| Err((field.line, format!("`{}`: {what}", field.name)));
        if fields[..index].iter().any(|f| f.name.eq_ignore_ascii_case(&field.name)) {
            return refuse("the name is taken");
        }
        if field.is_nullable() && !field.ty.may_be_null() {
            return refuse("its type has no null");
        }
        if let Some((_, tagged)) = field.tag {
            if tagged.max != i16::MAX || tagged.and(field.versions) != tagged {
                return refuse("tagged versions are open ended and within the field's");
            }
            if tagged.and(message.flexible) != tagged {
                return refuse("only flexible versions have tagged fields");
            }
            if tags.iter().enumerate().any(|(at, tag)| at as u32 != *tag) {
                return refuse("tags count from 0, each once");
            }
        }
        let present = field.versions.and(message.versions);
        if let Type::Array(element) = &field.ty
            && !present.is_empty()
            && message.bytes_min(element, present) == 0
        {
            return refuse("its elements may take no bytes at all");
        }
    }
    Ok(())
}
