//! Compiles our `.proto` files with a compiler written in Rust, so that no `protoc` is needed, and takes along what describes Envoy's
//! messages.

mod envoy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["workload.proto", "authorization.proto", "ca.proto", "zds.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Ordered maps, so that equal messages have equal bytes: versions of resources are hashes of them.
    tonic_prost_build::configure().bytes(".istio").btree_map(".istio").compile_fds(descriptors)?;
    envoy::write()
}
