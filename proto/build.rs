//! Compiles `denyut.proto` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=denyut.proto");
    let descriptors = protox::compile(["denyut.proto"], ["."])?;
    tonic_prost_build::configure()
        .bytes(".denyut.v1.Entry.heartbeat")
        .compile_fds(descriptors)?;
    Ok(())
}
