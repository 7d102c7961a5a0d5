//! Holds `cri.proto` against `cri-v1.38.txt`, the table of the wire interface: the descriptors are printed in the table's own
//! form and both are compared line by line, so that what is missing, added, renumbered or retyped on either side is named.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const TABLE: &str = include_str!("../cri-v1.38.txt");
const PACKAGE: &str = "runtime.v1";

/// One line for every service, method, message, field, enum and value, each with the name of what it belongs to.
type Lines = BTreeSet<String>;

fn table() -> Lines {
    let mut owner = "";
    let mut lines = Lines::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(row) => assert!(lines.insert(format!("{owner}: {row}")), "twice in the table: {owner}: {row}"),
            None => {
                owner = line;
                assert!(lines.insert(line.to_owned()), "twice in the table: {line}");
            }
        }
    }
    lines
}

fn descriptors() -> Lines {
    let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("the build encoded it");
    let [file] = set.file.as_slice() else { panic!("one file, no imports") };
    assert_eq!((file.package(), file.syntax()), (PACKAGE, "proto3"));
    let mut lines = Lines::new();
    services(file, &mut lines);
    file.enum_type.iter().for_each(|of| enumeration("", of, &mut lines));
    file.message_type.iter().for_each(|of| message(of, &mut lines));
    lines
}

fn services(file: &FileDescriptorProto, lines: &mut Lines) {
    for service in &file.service {
        lines.insert(format!("service {}", service.name()));
        for method in &service.method {
            assert!(!method.client_streaming(), "{}: no CRI call streams its request", method.name());
            let stream = if method.server_streaming() { "stream " } else { "" };
            let (input, output) = (local(method.input_type()), local(method.output_type()));
            lines.insert(format!("service {}: {}\t{input}\t{stream}{output}", service.name(), method.name()));
        }
    }
}

fn enumeration(prefix: &str, of: &EnumDescriptorProto, lines: &mut Lines) {
    let owner = format!("enum {prefix}{}", of.name());
    lines.extend(of.value.iter().map(|value| format!("{owner}: {}\t{}", value.number(), value.name())));
    lines.insert(owner);
}

fn message(of: &DescriptorProto, lines: &mut Lines) {
    let owner = format!("message {}", of.name());
    assert!(of.oneof_decl.is_empty(), "{owner}: the interface has no oneof");
    for inner in &of.enum_type {
        enumeration(&format!("{}.", of.name()), inner, lines);
    }
    for field in &of.field {
        let deprecated = field.options.as_ref().is_some_and(|options| options.deprecated());
        let mark = if deprecated { "\tdeprecated" } else { "" };
        lines.insert(format!("{owner}: {}\t{}\t{}{mark}", field.number(), field.name(), kind(of, field)));
    }
    lines.insert(owner);
}

/// The type of a field as the table writes it.
fn kind(of: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let repeated = field.label() == Label::Repeated;
    if let Some(entry) =
        of.nested_type.iter().find(|nested| field.type_name().ends_with(&format!(".{}", nested.name())))
    {
        assert!(repeated && entry.options.as_ref().is_some_and(|options| options.map_entry()), "{}", entry.name());
        return format!("map<{},{}>", kind(entry, &entry.field[0]), kind(entry, &entry.field[1]));
    }
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            local(field.type_name()).trim_start_matches(&format!("{}.", of.name())).to_owned()
        }
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    if repeated { format!("repeated {name}") } else { name }
}

fn local(type_name: &str) -> &str {
    type_name.strip_prefix(&format!(".{PACKAGE}.")).expect("every type is the package's own")
}

#[test]
fn descriptors_are_the_table() {
    let (table, ours) = (table(), descriptors());
    let missing: Vec<_> = table.difference(&ours).collect();
    let added: Vec<_> = ours.difference(&table).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing: {missing:#?}\nnot in the table: {added:#?}");
}

#[test]
fn table_is_whole() {
    let table = table();
    let count = |prefix: &str| table.iter().filter(|line| line.starts_with(prefix) && line.contains(": ")).count();
    assert_eq!(count("service RuntimeService"), 37);
    assert_eq!(count("service ImageService"), 9);
}
