use serde_json::{Value, json};

use super::*;

#[track_caller]
fn check(template: &str, data: &Value, expected: &str) {
    let mut templates = Templates::default();
    templates.add("t", template).unwrap();
    assert_eq!(templates.render("t", data, &|_| None).unwrap(), expected, "{template}");
}

#[track_caller]
fn refused(template: &str, expected: &str) {
    let mut templates = Templates::default();
    let ended = templates.add("t", template).and_then(|()| templates.render("t", &json!({"a": {"b": 1}}), &|_| None));
    let error = ended.unwrap_err().to_string();
    assert!(error.contains(expected), "{template}: {error}");
}

#[test]
fn braces_with_hyphens_take_white_space_away_and_comments_go() {
    check("a \n{{- .x -}}\n b", &json!({"x": 1}), "a1b");
    check("a {{/* }} no */}} b{{- /* x */ -}} c", &json!({}), "a  bc");
    check("{{ \"}}\" }}{{ `a\\` }}", &json!({}), "}}a\\");
}

#[test]
fn conditions_go_by_what_is_empty() {
    for (value, word) in
        [(json!(0), "no"), (json!(2), "yes"), (json!(""), "no"), (json!([]), "no"), (json!({"a": 1}), "yes"), (Value::Null, "no")]
    {
        check("{{ if .x }}yes{{ else }}no{{ end }}", &json!({"x": value}), word);
    }
    check("{{ if eq .x \"a\" }}1{{ else if eq .x \"b\" }}2{{ else }}3{{ end }}", &json!({"x": "b"}), "2");
    check("{{ if and .x (gt (int .y) 1) }}1{{ end }}{{ if or .no .x }}2{{ end }}", &json!({"x": true, "y": 2}), "12");
}

#[test]
fn with_and_range_set_the_dot_and_variables_end_with_their_block() {
    let data = json!({"a": {"b": "c"}, "l": [1, 2], "m": {"z": 1, "y": 2}});
    check("{{ with .a }}{{ .b }}{{ $.l | toYaml }}{{ end }}{{ with .none }}x{{ else }}-{{ end }}", &data, "c- 1\n- 2-");
    check("{{ range $i, $x := .l }}{{ $i }}{{ $x }} {{ end }}{{ range .none }}{{ else }}none{{ end }}", &data, "01 12 none");
    check("{{ range $k, $v := .m }}{{ $k }}={{ $v }} {{ end }}", &data, "y=2 z=1 ");
    check("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}", &data, "2");
}

#[test]
fn what_is_defined_is_included_with_its_own_dot() {
    let template = "{{ define \"t\" }}{{ $r := index . 0 }}{{ $r.a }}-{{ index . 1 }}{{ end }}{{ include \"t\" (list . \"x\") | nindent 2 }}";
    check(template, &json!({"a": "y"}), "\n  y-x");
}

#[test]
fn functions_do_what_sprigs_do() {
    check(
        "{{ .x | default \"d\" | quote }} {{ join \",\" .l }} {{ add 1 2 }}",
        &json!({"x": "", "l": ["a", "b"]}),
        "\"d\" a,b 3",
    );
    check(
        "{{ toYaml .x | nindent 2 }}",
        &json!({"x": {"a": {"b": [{"c": "yes", "d": {}}]}}}),
        "\n  a:\n    b:\n      - c: \"yes\"\n        d: {}",
    );
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    refused("\n\n{{ .a.b.c }}", "t:3: what is no mapping has no field c");
    refused("{{ .x.y }}", "nothing has no field y");
    refused("{{ lookup \"v1\" }}", "lookup: with 1 arguments");
    refused("{{ if .a }}", "not ended");
    refused("{{ end }}", "nothing to end");
    refused("{{ .a", "not closed with }}");
    refused("{{ .a }}", "toYaml");
    refused("{{ include \"x\" . }}", "nothing is defined as \"x\"");
    refused("{{ define \"x\" }}{{ include \"x\" . }}{{ end }}{{ include \"x\" . }}", "within itself");
    refused("{{ fail \"because\" }}", "because");
    refused("{{ $x }}", "$x is not declared");
}
