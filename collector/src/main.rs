//! The program; all of it is in the library, so that `tests/fuzz` can try its parts.

fn main() -> std::process::ExitCode {
    denyut_collector::main()
}
