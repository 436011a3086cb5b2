//! Analyses Rust source without compiling it: what is code, what is a test, how long a function is.

/// The same text with comments, strings and character literals blanked out; line numbers stay the same.
pub fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (skipped, kept) = next_piece(rest);
        if skipped {
            out.extend(rest[..kept].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(&rest[..kept]);
        }
        rest = &rest[kept..];
    }
    out
}

/// Whether the text starts with something that is not code, and its length.
fn next_piece(text: &str) -> (bool, usize) {
    if text.starts_with("//") {
        return (true, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (true, block_comment(text));
    }
    if let Some(length) = raw_string(text) {
        return (true, length);
    }
    if let Some(body) = text.strip_prefix('"') {
        return (true, 1 + quoted(body, '"'));
    }
    if let Some(length) = char_literal(text) {
        return (true, length);
    }
    // A whole word at once, so that the `r` of a name does not start a raw string.
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (false, word.max(text.chars().next().map_or(1, char::len_utf8)))
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let tail = &text[at..];
        let step = if tail.starts_with("/*") {
            depth += 1;
            2
        } else if tail.starts_with("*/") {
            depth -= 1;
            2
        } else {
            tail.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of a raw string at the start of the text, prefix included.
fn raw_string(text: &str) -> Option<usize> {
    let after = ["br", "cr", "r"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(text.len() - body.len() + end)
}

/// Length of a quoted body up to and with the closing quote.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if !escaped && c == quote {
            return at + quote.len_utf8();
        }
        escaped = !escaped && c == '\\';
    }
    body.len()
}

/// Length of a character literal at the start of the text; a lifetime is not one.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.chars();
    let (first, second) = (chars.next()?, chars.next());
    (first == '\\' || second == Some('\'')).then(|| 1 + quoted(body, '\''))
}

/// The part of a file before its test module.
pub fn without_tests(text: &str) -> &str {
    let marks = text.match_indices("#[cfg(test)]");
    let is_module = |at: usize| {
        let item = text[at..].lines().find(|line| !line.starts_with("#[") && !line.starts_with("//"));
        item.is_some_and(|line| line.starts_with("mod "))
    };
    marks.map(|(at, _)| at).find(|&at| is_module(at)).map_or(text, |at| &text[..at])
}

/// Lines of text without tests.
pub fn lines_without_tests(text: &str) -> usize {
    without_tests(text).lines().count()
}

/// Name, first line and length in lines of every function with a body.
pub fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let code = code_only(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let boundary = code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if let (true, false, Some(end)) = (boundary, name.is_empty(), body_end(&code[at..])) {
            let first = code[..at].matches('\n').count() + 1;
            found.push((name, first, code[at..at + end].matches('\n').count() + 1));
        }
    }
    found
}

/// Where the body of the function at the start of the code ends; `None` for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut nested) = (0usize, 0usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested = nested.saturating_sub(1),
            ';' if braces == 0 && nested == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_comments_and_characters_are_no_code_and_lifetimes_are() {
        let text = "let a = \"x.unwrap() \\\" {\"; // fn no() {\nlet b = '{'; /* { /* } */ */ let c: &'a str = r#\"fn \"no\"#;";
        let code = code_only(text);
        assert_eq!(code.lines().count(), 2);
        assert!(!code.contains("unwrap") && !code.contains('{') && !code.contains("fn"), "{code}");
        assert!(code.contains("let c: &'a str = "), "{code}");
    }

    #[test]
    fn a_function_is_as_long_as_its_body() {
        let text = "trait T { fn none(&self, a: [u8; 2]); }\nfn one() {}\nfn three(f: impl Fn(u8)) {\n    f('}' as u8);\n}\n";
        assert_eq!(functions(text), [("one".to_string(), 2, 1), ("three".to_string(), 3, 3)]);
    }

    #[test]
    fn tests_do_not_count() {
        assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines_without_tests("a\n#[cfg(test)]\n#[allow(x)] // why\nmod tests {\n}\n"), 1);
        assert_eq!(lines_without_tests("a\n#[cfg(test)]\nuse x;\nb\n"), 4);
    }
}
