//! Loads every program of an object and compares what the kernel says of it with a record, one line a program.
//!
//! Instructions the verifier went through, machine code and memory depend on the kernel: on another one than the record's only
//! the translated length is compared.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError},
};

/// Writes the record anew where it is set.
const WRITE: &str = "SKEP_RECORD_PROGRAMS";

/// By how many percent a number may grow.
const TOLERANCE: u64 = 10;

const COLUMNS: [&str; 4] = ["verified instructions", "translated bytes", "machine code bytes", "locked bytes"];

/// What each may grow by besides: memory comes in pages, and one more is no news.
const SLACK: [u64; 4] = [0, 0, 0, 4096];

/// The column that every kernel has nearly the same of.
const TRANSLATED: usize = 1;

type Weights = BTreeMap<String, [u64; 4]>;

/// Fails where a program of the object, loaded with these globals, weighs more than the record says, or is not in it.
pub(crate) fn compare(object: &[u8], globals: &[(&str, u8)], record: &str, package: &str) {
    assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ebpf/programs").join(record);
    let write = format!("{WRITE}=1 cargo nextest run -p {package} --test verifier");
    let found = weigh(object, globals);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, text(&found, &write)).unwrap();
        return;
    }
    let (kernel, recorded) = read(&path);
    let complaints = complaints(&recorded, &found, kernel == self::kernel());
    assert!(
        complaints.is_empty(),
        "{}\nif that is meant, run\n  {write}\nto write the record anew",
        complaints.join("\n")
    );
}

/// What differs for the worse, in words.
fn complaints(recorded: &Weights, found: &Weights, same_kernel: bool) -> Vec<String> {
    let mut all = Vec::new();
    for (name, weights) in found {
        let Some(were) = recorded.get(name) else {
            all.push(format!("{name} is not in the record"));
            continue;
        };
        for (column, (was, is)) in were.iter().zip(weights).enumerate() {
            if (same_kernel || column == TRANSLATED) && is.saturating_sub(SLACK[column]) * 100 > was * (100 + TOLERANCE)
            {
                all.push(format!("{name} has grown: {} were {was}, are {is}", COLUMNS[column]));
            }
        }
    }
    let gone = recorded.keys().filter(|name| !found.contains_key(*name));
    all.extend(gone.map(|name| format!("{name} is in the record and not in the object")));
    all
}

fn weigh(object: &[u8], globals: &[(&str, u8)]) -> Weights {
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value, true);
    }
    let mut ebpf = loader.load(object).unwrap();
    ebpf.programs_mut()
        .map(|(name, program)| {
            load(program).unwrap_or_else(|error| panic!("{name}: {error}"));
            let info = program.info().unwrap();
            let verified = info.verified_instruction_count().expect("the kernel tells since 5.16");
            let translated = info.size_translated().expect("root may know");
            let locked = info.memory_locked().unwrap();
            (name.to_owned(), [verified, translated, info.size_jitted(), locked].map(u64::from))
        })
        .collect()
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    let mut once = || match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    for _ in 1..5 {
        match once() {
            // The verifier gives up when a signal comes.
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    once()
}

/// Version and machine, as far as they matter.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.trim().split(['.', '-']);
    let mut part = || parts.next().unwrap_or_default().to_owned();
    format!("{}.{} {}", part(), part(), std::env::consts::ARCH)
}

fn text(weights: &Weights, write: &str) -> String {
    let mut text = format!("# kernel {}\n# written by {write}\n# program: {}\n", kernel(), COLUMNS.join(", "));
    for (name, [verified, translated, jited, locked]) in weights {
        writeln!(text, "{name:<18} {verified:>7} {translated:>7} {jited:>7} {locked:>7}").unwrap();
    }
    text
}

fn read(path: &PathBuf) -> (String, Weights) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kernel = text.lines().find_map(|line| line.strip_prefix("# kernel ")).expect("names its kernel").to_owned();
    let weights = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a program").to_owned();
        let numbers: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
        (name, numbers.try_into().expect("four numbers"))
    });
    (kernel, weights.collect())
}

#[test]
fn growth_new_programs_and_gone_ones_are_told() {
    let of = |weights: [u64; 4]| Weights::from([("a".to_owned(), weights)]);
    let was = of([1000, 100, 100, 4096]);
    assert_eq!(complaints(&was, &of([1100, 110, 90, 4096]), true), [""; 0]);
    let grown = complaints(&was, &of([1101, 100, 100, 4096]), true);
    assert_eq!(grown, ["a has grown: verified instructions were 1000, are 1101"]);
    assert_eq!(complaints(&was, &of([1000, 100, 100, 8192]), true), [""; 0]);
    assert_eq!(complaints(&was, &of([1000, 100, 100, 12_288]), true).len(), 1);
    assert_eq!(complaints(&was, &of([9000, 100, 900, 9000]), false), [""; 0]);
    assert_eq!(complaints(&was, &of([1, 111, 1, 1]), false).len(), 1);
    assert_eq!(complaints(&was, &Weights::new(), true), ["a is in the record and not in the object"]);
    assert_eq!(complaints(&Weights::new(), &was, true), ["a is not in the record"]);
}
