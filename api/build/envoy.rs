//! Descriptors of Envoy's messages, by which a message is written as JSON: those of the admin pages, and of what resources are made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FieldDescriptorProto, FieldOptions, FileDescriptorProto,
    FileDescriptorSet, MessageOptions,
    field_descriptor_proto::{Label, Type},
};

/// Files whose names begin so are taken, with those that they use. What a waypoint takes in its resources must be among them, and what it may
/// be sent in vain ought to be.
const FILES: [&str; 49] = [
    "envoy/admin/v3/certs",
    "envoy/admin/v3/clusters",
    "envoy/admin/v3/config_dump",
    "envoy/admin/v3/listeners",
    "envoy/admin/v3/server_info",
    "envoy/config/",
    "envoy/extensions/access_loggers/",
    "envoy/extensions/compression/",
    "envoy/extensions/filters/common/",
    "envoy/extensions/filters/http/adaptive_concurrency/",
    "envoy/extensions/filters/http/admission_control/",
    "envoy/extensions/filters/http/buffer/",
    "envoy/extensions/filters/http/compressor/",
    "envoy/extensions/filters/http/cors/",
    "envoy/extensions/filters/http/decompressor/",
    "envoy/extensions/filters/http/ext_authz/",
    "envoy/extensions/filters/http/ext_proc/",
    "envoy/extensions/filters/http/fault/",
    "envoy/extensions/filters/http/grpc_stats/",
    "envoy/extensions/filters/http/header_mutation/",
    "envoy/extensions/filters/http/health_check/",
    "envoy/extensions/filters/http/jwt_authn/",
    "envoy/extensions/filters/http/local_ratelimit/",
    "envoy/extensions/filters/http/lua/",
    "envoy/extensions/filters/http/ratelimit/",
    "envoy/extensions/filters/http/rbac/",
    "envoy/extensions/filters/http/router/",
    "envoy/extensions/filters/http/set_filter_state/",
    "envoy/extensions/filters/http/stateful_session/",
    "envoy/extensions/filters/listener/",
    "envoy/extensions/filters/network/echo/",
    "envoy/extensions/filters/network/http_connection_manager/",
    "envoy/extensions/filters/network/rbac/",
    "envoy/extensions/filters/network/set_filter_state/",
    "envoy/extensions/filters/network/tcp_proxy/",
    "envoy/extensions/http/",
    "envoy/extensions/load_balancing_policies/",
    "envoy/extensions/matching/",
    "envoy/extensions/path/",
    "envoy/extensions/rate_limit_descriptors/",
    "envoy/extensions/rbac/",
    "envoy/extensions/request_id/",
    "envoy/extensions/retry/",
    "envoy/extensions/tracers/opentelemetry/",
    "envoy/extensions/transport_sockets/",
    "envoy/extensions/upstreams/",
    "envoy/type/",
    "google/protobuf/",
    "xds/",
];

/// Writes `envoy.bin`, a `FileDescriptorSet` of them.
pub fn write() -> Result<(), Box<dyn Error>> {
    // Another version of the crate is another directory.
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let types = types()?;
    let failed = |error: &dyn Error| format!("{}: {error}", types.display());
    let bytes = fs::read(&types).map_err(|error| failed(&error))?;
    let FileDescriptorSet { mut file } = FileDescriptorSet::decode(bytes.as_slice()).map_err(|error| failed(&error))?;
    let wanted = wanted(&file);
    file.retain(|file| wanted.contains(file.name()));
    file.iter_mut().for_each(strip);
    // The crate leaves it out.
    if !wanted.contains(ADDRESS_MATCHER) {
        file.push(address_matcher());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("envoy.bin"), FileDescriptorSet { file }.encode_to_vec())?;
    Ok(())
}

/// Where descriptors of all of Envoy's messages are, which come with the crate of them.
fn types() -> Result<PathBuf, Box<dyn Error>> {
    // Another crate than what is being built may not be at hand yet, which is no reason to fail where there is a network.
    let metadata = metadata(&["--offline"]).or_else(|_| metadata(&[]))?;
    // One path, which is worth no reader of JSON.
    let manifests = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut directories = manifests.filter_map(|manifest| Path::new(manifest).parent());
    let is_it = |directory: &&Path| directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("envoy-types"));
    let found = directories.find(is_it).ok_or("cargo metadata names no crate envoy-types")?;
    Ok(found.join("src/generated/types.bin"))
}

/// What cargo says of the packages that this one is built with. It does not change the lock file.
fn metadata(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").ok_or("CARGO is not set")?;
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform"]).arg(env::var("TARGET")?).args(arguments);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The names of the files that are taken.
fn wanted(files: &[FileDescriptorProto]) -> BTreeSet<String> {
    let by_name: BTreeMap<&str, &FileDescriptorProto> = files.iter().map(|file| (file.name(), file)).collect();
    let begins = |name: &&str| FILES.iter().any(|start| name.starts_with(start)) && !annotates(name);
    let mut next: Vec<&str> = by_name.keys().copied().filter(begins).collect();
    let mut wanted = BTreeSet::new();
    while let Some(name) = next.pop() {
        if let Some(file) = by_name.get(name)
            && wanted.insert(name.to_owned())
        {
            next.extend(file.dependency.iter().map(String::as_str).filter(|name| !annotates(name)));
        }
    }
    wanted
}

/// Whether a file only has options for others, which are left out.
fn annotates(name: &str) -> bool {
    name.contains("annotations") || name.starts_with("validate/") || name.ends_with("descriptor.proto")
}

/// Leaves names, numbers and types. Comments and options are most of a descriptor.
fn strip(file: &mut FileDescriptorProto) {
    let dependencies = std::mem::take(&mut file.dependency);
    let public = std::mem::take(&mut file.public_dependency);
    let public: BTreeSet<&String> =
        public.into_iter().filter_map(|index| dependencies.get(usize::try_from(index).ok()?)).collect();
    let kept: Vec<&String> = dependencies.iter().filter(|name| !annotates(name)).collect();
    let places = kept.iter().enumerate().filter(|(_, name)| public.contains(*name));
    file.public_dependency = places.filter_map(|(index, _)| i32::try_from(index).ok()).collect();
    file.dependency = kept.into_iter().cloned().collect();
    file.weak_dependency.clear();
    file.service.clear();
    file.extension.clear();
    file.options = None;
    file.source_code_info = None;
    file.message_type.iter_mut().for_each(strip_message);
    file.enum_type.iter_mut().for_each(strip_enum);
}

fn strip_message(message: &mut DescriptorProto) {
    message.extension.clear();
    message.extension_range.clear();
    message.reserved_range.clear();
    message.reserved_name.clear();
    let is_map = message.options.take().is_some_and(|options| options.map_entry == Some(true));
    message.options = is_map.then(|| MessageOptions { map_entry: Some(true), ..Default::default() });
    for field in &mut message.field {
        // It follows from the name.
        field.json_name = None;
        let packed = field.options.take().and_then(|options| options.packed);
        field.options = packed.map(|packed| FieldOptions { packed: Some(packed), ..Default::default() });
    }
    message.oneof_decl.iter_mut().for_each(|oneof| oneof.options = None);
    message.nested_type.iter_mut().for_each(strip_message);
    message.enum_type.iter_mut().for_each(strip_enum);
}

fn strip_enum(of: &mut EnumDescriptorProto) {
    // A number with two names is an error where it is not said that it may have them.
    of.options = of
        .options
        .take()
        .filter(|options| options.allow_alias())
        .map(|_| EnumOptions { allow_alias: Some(true), ..Default::default() });
    of.reserved_range.clear();
    of.reserved_name.clear();
    of.value.iter_mut().for_each(|value| value.options = None);
}

const ADDRESS_MATCHER: &str = "xds/type/matcher/v3/ip.proto";

/// What `src/matcher.rs` has.
fn address_matcher() -> FileDescriptorProto {
    let field = |name: &str, number, label: Label, kind: Type, type_name: Option<&str>| FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name: type_name.map(Into::into),
        ..Default::default()
    };
    let range = DescriptorProto {
        name: Some("IPRangeMatcher".into()),
        field: vec![
            field("ranges", 1, Label::Repeated, Type::Message, Some(".xds.core.v3.CidrRange")),
            field("on_match", 2, Label::Optional, Type::Message, Some(".xds.type.matcher.v3.Matcher.OnMatch")),
            field("exclusive", 3, Label::Optional, Type::Bool, None),
        ],
        ..Default::default()
    };
    let of_range = Some(".xds.type.matcher.v3.IPMatcher.IPRangeMatcher");
    let matcher = DescriptorProto {
        name: Some("IPMatcher".into()),
        field: vec![field("range_matchers", 1, Label::Repeated, Type::Message, of_range)],
        nested_type: vec![range],
        ..Default::default()
    };
    FileDescriptorProto {
        name: Some(ADDRESS_MATCHER.into()),
        package: Some("xds.type.matcher.v3".into()),
        dependency: vec!["xds/type/matcher/v3/matcher.proto".into(), "xds/core/v3/cidr.proto".into()],
        message_type: vec![matcher],
        syntax: Some("proto3".into()),
        ..Default::default()
    }
}
