//! What the servers of the Java machine have in common.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::launch::Place;
use super::maven::{Pin, jars};
use super::{install, path_text};

/// A Java, and the jars of one server.
#[derive(Debug)]
pub(super) struct Java {
    program: PathBuf,
    jars: PathBuf,
}

impl Java {
    /// Installs and fetches what is missing.
    pub(super) fn with(pins: &[Pin]) -> Result<Self, String> {
        let program = install::java()?;
        Ok(Self { program, jars: jars(pins)? })
    }

    pub(super) fn jars(&self) -> Result<String, String> {
        path_text(&self.jars).map(str::to_owned)
    }

    /// A Java with these jars and this much heap; `before` stands before them on the class path.
    ///
    /// It writes nowhere but in its directory: no counters in `/tmp`, no libraries unpacked there or at home.
    pub(super) fn command(&self, place: Place<'_>, at: &Path, heap: &str, before: &str) -> Result<Command, String> {
        let mut command = place.program(path_text(&self.program)?);
        let scratch = path_text(at)?.to_owned() + "/tmp";
        fs::create_dir(&scratch).map_err(|error| format!("{scratch}: {error}"))?;
        // Variables of the user's own Java programs are not for servers.
        command.env_remove("JDK_JAVA_OPTIONS").env_remove("JAVA_TOOL_OPTIONS").env_remove("CLASSPATH");
        command.args(["-XX:-UsePerfData", "-XX:+UseSerialGC"]).arg(format!("-Xmx{heap}"));
        command.arg(format!("-Djava.io.tmpdir={scratch}")).arg(format!("-Djna.tmpdir={scratch}"));
        command.arg(format!("-Duser.home={scratch}"));
        command.args(["-cp", &format!("{before}{}/*", path_text(&self.jars)?)]);
        Ok(command)
    }
}
