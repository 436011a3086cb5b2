//! What the parser of `messages/*.kmsg` takes, and that every slip is an error with its file and line.

#[allow(dead_code, reason = "the build script uses all of it")]
#[path = "../build/notation.rs"]
mod notation;

use notation::{Kind, Type, Value, Versions, parse};

const GOOD: &str = "\
# Hello, key 7.
api Hello 7 stable 0-2

request 0-3 flexible 2+
  Name string 0+ null 1-2 ignorable = null   # a comment
  Count int32 0+ = -1
  Items []Item 1+
    Id uuid 0+
    Flag bool 2+ tag 0 2+ = true
  Last Shared 3+ null 3+ = null
  struct Shared
    Value []int8 0+

response 0-3 flexible 2+
  ErrorCode int16 0+
";

#[test]
fn a_file_is_read_as_it_is_written() {
    let file = parse("hello.kmsg", GOOD).expect("a good file");
    let api = file.api.expect("an api");
    assert_eq!((api.name.as_str(), api.key, api.stable), ("Hello", 7, Some(Versions { min: 0, max: 2 })));
    let [request, response] = &file.messages[..] else { panic!("two messages") };
    assert_eq!((request.kind, request.name.as_str()), (Kind::Request, "HelloRequest"));
    assert_eq!((response.kind, response.name.as_str()), (Kind::Response, "HelloResponse"));
    assert_eq!(request.versions, Versions { min: 0, max: 3 });
    assert_eq!(request.flexible, Versions { min: 2, max: i16::MAX });
    let names: Vec<&str> = request.fields.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["Name", "Count", "Items", "Last"]);
    let name = &request.fields[0];
    assert_eq!((name.null, name.ignorable, name.default), (Versions { min: 1, max: 2 }, true, Value::Null));
    assert_eq!(request.fields[1].default, Value::Int(-1));
    assert_eq!(request.fields[2].ty, Type::Array(Box::new(Type::Struct("Item".to_owned()))));
    let structs: Vec<&str> = request.structs.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(structs, ["Item", "Shared"]);
    let flag = &request.fields_of("Item")[1];
    assert_eq!((flag.tag, flag.default), (Some((0, Versions { min: 2, max: i16::MAX })), Value::True));
}

#[test]
fn the_fewest_bytes_of_an_element_are_counted_over_the_versions_that_have_it() {
    let file = parse("hello.kmsg", GOOD).expect("a good file");
    let request = &file.messages[0];
    let item = Type::Struct("Item".to_owned());
    let only = |version| Versions { min: version, max: version };
    assert_eq!(request.bytes_min(&item, only(1)), 16, "an id");
    assert_eq!(request.bytes_min(&item, only(2)), 17, "an id and no tagged fields");
    assert_eq!(request.bytes_min(&item, Versions { min: 0, max: i16::MAX }), 16);
    assert_eq!(request.bytes_min(&Type::String, only(1)), 2);
    assert_eq!(request.bytes_min(&Type::String, only(2)), 1);
    assert_eq!(request.bytes_min(&Type::Struct("Shared".to_owned()), only(3)), 2);
}

/// The error of `text`, as it is printed.
fn error(text: &str) -> String {
    match parse("bad.kmsg", text) {
        Ok(file) => panic!("was taken: {file:?}"),
        Err(error) => error.to_string(),
    }
}

/// The error when `line` stands among the fields of a request; it must be on that line, the fourth.
fn field_error(line: &str) -> String {
    let text =
        format!("api Hello 7\nrequest 1-3 flexible 2+\n  First int8 0+\n{line}\nresponse 1-3 flexible 2+\n");
    let error = error(&text);
    error.strip_prefix("bad.kmsg:4: ").unwrap_or_else(|| panic!("not line 4: {error}")).to_owned()
}

#[test]
fn slips_in_a_field_are_named() {
    for (line, wanted) in [
        ("  Name", "wanted: FIELD TYPE VERSIONS ..."),
        ("  Name string", "wanted: FIELD TYPE VERSIONS ..."),
        ("  Na-me string 0+", "wanted: FIELD TYPE VERSIONS ..."),
        ("  Name text 0+", "`text` is not a type"),
        ("  Name [][]int8 0+", "`[][]int8` is not a type"),
        ("  Name []records 0+", "`[]records` is not a type"),
        ("  Name string 3-1", "`3-1` is not a range of versions"),
        ("  Name string -1", "`-1` is not a range of versions"),
        ("  Name string 0+ nul 0+", "`nul` is not understood"),
        ("  Name string 0+ null", "versions are missing"),
        ("  Name string 0+ tag x 2+", "wanted: tag NUMBER VERSIONS"),
        ("  Name string 0+ = null", "`null` is not a value of `Name`"),
        ("  Name string 0+ =", "`` is not a value of `Name`"),
        ("  Name int8 0+ = 128", "`128` is not a value of `Name`"),
        ("  Name uint16 0+ = -1", "`-1` is not a value of `Name`"),
        ("  Name bool 0+ = 1", "`1` is not a value of `Name`"),
        ("  Name int32 0+ null 0+", "`Name`: its type has no null"),
        ("  FIRST int8 0+", "`FIRST`: the name is taken"),
        ("  Name Missing 0+", "struct Missing is not defined"),
        ("  Name int8 1+ tag 0 1+", "`Name`: only flexible versions have tagged fields"),
        ("  Name int8 2+ tag 1 2+", "`Name`: tags count from 0, each once"),
        ("  Name int8 3+ tag 0 2+", "`Name`: tagged versions are open ended and within the field's"),
        ("  Name int8 2+ tag 0 2-3", "`Name`: tagged versions are open ended and within the field's"),
        ("    Name int8 0+", "`First` is int8, it has no fields"),
        ("   Name int8 0+", "indentation is not two spaces per level"),
        ("  struct Name", "struct Name has no fields"),
        ("  struct name", "`struct NAME` stands directly below a message"),
        ("  struct Name\n    Value int8 0+", "struct Name is never used"),
        ("  Names []Name 1+\n    Late int8 2+", "`Names`: its elements may take no bytes at all"),
    ] {
        assert_eq!(field_error(line), wanted, "{line}");
    }
}

#[test]
fn a_struct_cannot_hold_itself() {
    let text = "data Hello 0 flexible none\n  Name Loop 0+\n    Inner []Loop 0+\n";
    assert_eq!(error(text), "bad.kmsg:3: struct Loop holds itself");
}

#[test]
fn slips_around_the_fields_are_named() {
    let request = "request 0 flexible none\n  A int8 0+\n";
    for (text, wanted) in [
        ("", "bad.kmsg:1: the file declares nothing"),
        ("api Hello\n", "bad.kmsg:1: wanted: api NAME KEY [stable VERSIONS]"),
        ("api hello 1\n", "bad.kmsg:1: `hello` is not a name"),
        ("api Hello x\n", "bad.kmsg:1: `x` is not an API key"),
        ("api Hello 1\napi Hello 1\n", "bad.kmsg:2: `api` comes once, and first"),
        ("request 0 flexible none\n", "bad.kmsg:1: `request` comes before `api`"),
        ("hello\n", "bad.kmsg:1: wanted: api, request, response, or data NAME"),
        ("data Hello 0\n", "bad.kmsg:1: wanted: VERSIONS flexible VERSIONS"),
        ("data Hello x flexible none\n", "bad.kmsg:1: `x` is not a range of versions"),
        ("data Hello none flexible none\n", "bad.kmsg:1: Hello has no versions"),
        ("data Hello 0-3 flexible 1-2\n", "bad.kmsg:1: flexible versions end before the message's"),
        (
            "data Hello 0 flexible none\n    A int8 0+\n",
            "bad.kmsg:2: the line is indented deeper than what it belongs to",
        ),
        (
            "data Hello 0 flexible none\n  A B 0+\n    C int8 0+\n  struct B\n    C int8 0+\n",
            "bad.kmsg:4: struct B is defined twice",
        ),
    ] {
        assert_eq!(error(text), wanted, "{text}");
    }
    assert_eq!(
        error(&format!("api Hello 1\n{request}")),
        "bad.kmsg:1: an api has one request and one response"
    );
    assert_eq!(
        error(&format!("api Hello 1\n{request}response 0-1 flexible none\n  A int8 0+\n")),
        "bad.kmsg:4: request and response differ in their versions"
    );
}
