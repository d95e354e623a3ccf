//! Least and median of what was measured: criterion prints an estimate with its confidence bounds instead.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// Prints a line for each benchmark that was measured since `start`.
pub(crate) fn print(start: SystemTime) {
    let home = std::env::var_os("CRITERION_HOME").map(PathBuf::from).or_else(|| {
        // A bench runs in its package's folder.
        let targets = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).into_iter();
        let mut homes = targets.chain(["target".into(), "../target".into()]).map(|target| target.join("criterion"));
        homes.find(|home| home.is_dir())
    });
    let mut lines = Vec::new();
    if let Some(home) = home {
        collect(&home, &home, start, &mut lines);
    }
    lines.sort();
    if !lines.is_empty() {
        println!("\n{:<44} {:>12} {:>12}", "", "min", "median");
    }
    for (name, min, median) in lines {
        println!("{name:<44} {:>12} {:>12}", time(min), time(median));
    }
}

fn collect(home: &Path, folder: &Path, start: SystemTime, lines: &mut Vec<(String, u64, u64)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("base") && !path.ends_with("change") {
            collect(home, &path, start, lines);
        } else if path.ends_with("new/sample.json") && is_new(&path, start) {
            let name = path.parent().and_then(Path::parent).and_then(|name| name.strip_prefix(home).ok());
            let name = name.map(|name| name.display().to_string()).unwrap_or_default();
            lines.extend(read(&path).map(|(min, median)| (name, min, median)));
        }
    }
}

fn is_new(path: &Path, start: SystemTime) -> bool {
    path.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|at| at >= start)
}

/// Picoseconds an iteration.
fn read(path: &Path) -> Option<(u64, u64)> {
    let sample: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let numbers =
        |name: &str| sample[name].as_array().map(|list| list.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
    let mut times: Vec<f64> =
        numbers("times")?.iter().zip(numbers("iters")?).map(|(time, iterations)| time * 1e3 / iterations).collect();
    times.sort_by(f64::total_cmp);
    let (min, median) = (times.first()?, times.get(times.len() / 2)?);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times are positive and far below the bound"
    )]
    Some((*min as u64, *median as u64))
}

#[allow(clippy::cast_precision_loss, reason = "three digits are printed")]
fn time(picoseconds: u64) -> String {
    match picoseconds {
        0..1_000_000 => format!("{:.1} ns", picoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} us", picoseconds as f64 / 1e6),
        _ => format!("{:.2} ms", picoseconds as f64 / 1e9),
    }
}
