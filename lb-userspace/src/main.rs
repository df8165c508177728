//! `weir`: the daemon and its command line.

fn main() -> std::process::ExitCode {
    weir::cli::main(std::env::args_os())
}
