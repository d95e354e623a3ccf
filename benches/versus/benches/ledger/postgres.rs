//! A PostgreSQL of one's own, and the transfer in one function of it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{ACCOUNTS, ROUND};

const SCHEMA: &str = "
CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT id, 0 FROM generate_series(0, 9999) AS id;
CREATE TABLE journal (number bigserial PRIMARY KEY, id uuid NOT NULL UNIQUE, recorded_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE entry (number bigint NOT NULL, account bigint NOT NULL, amount bigint NOT NULL, balance bigint NOT NULL);
CREATE FUNCTION transfer(transfer_id uuid, debit bigint, credit bigint, moved bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE taken bigint; debited bigint; credited bigint;
BEGIN
    INSERT INTO journal (id) VALUES (transfer_id) ON CONFLICT (id) DO NOTHING RETURNING number INTO taken;
    IF taken IS NULL THEN RETURN NULL; END IF;
    PERFORM 1 FROM account WHERE id IN (debit, credit) ORDER BY id FOR UPDATE;
    UPDATE account SET balance = balance - moved WHERE id = debit RETURNING balance INTO debited;
    UPDATE account SET balance = balance + moved WHERE id = credit RETURNING balance INTO credited;
    INSERT INTO entry VALUES (taken, debit, -moved, debited), (taken, credit, moved, credited);
    RETURN taken;
END $$;
";

/// What `pgbench` repeats, with as many accounts to debit.
fn script(debits: u64) -> String {
    format!(
        "\\set debit random(0, {})\n\\set credit random({}, {})\n\
        SELECT transfer(gen_random_uuid(), :debit, :credit, 7);\n",
        debits - 1,
        ACCOUNTS / 2,
        ACCOUNTS - 1
    )
}

/// A PostgreSQL that ends with this.
pub(crate) struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    /// It refuses to be run by the superuser.
    user: Option<[u32; 2]>,
    server: Child,
}

fn id_of(user: &str, kind: &str) -> Option<u32> {
    let out = Command::new("id").args([kind, user]).output().ok()?;
    String::from_utf8_lossy(&out.stdout).trim().parse().ok()
}

fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&paths).chain(debian.map(|version| version.path().join("bin")));
    let has_all = |path: &PathBuf| ["initdb", "postgres"].iter().all(|program| path.join(program).exists());
    all.into_iter().find(has_all)
}

impl Postgres {
    pub(crate) fn start(directory: &Path) -> Option<Self> {
        let programs = programs()?;
        let user = match Command::new("id").arg("-u").output().ok()?.stdout.as_slice() {
            b"0\n" => Some([id_of("postgres", "-u")?, id_of("postgres", "-g")?]),
            _ => None,
        };
        std::fs::create_dir_all(directory).unwrap();
        if let Some([user, group]) = user {
            std::os::unix::fs::chown(directory, Some(user), Some(group)).unwrap();
        }
        let data = directory.join("data");
        let mut initdb = run(user, programs.join("initdb"));
        let made = initdb.args(["-A", "trust", "-U", "postgres", "-D"]).arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = run(user, programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c"])
            .arg(format!("unix_socket_directories={}", directory.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = Self { programs, directory: directory.to_owned(), user, server };
        let start = Instant::now();
        while !postgres.psql("postgres", "SELECT 1").output().unwrap().status.success() {
            assert!(start.elapsed() < Duration::from_secs(60), "PostgreSQL does not come up");
            std::thread::sleep(Duration::from_millis(200));
        }
        postgres.execute("postgres", SCHEMA);
        Some(postgres)
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut psql = run(self.user, self.program("psql"));
        psql.arg("-qh").arg(&self.directory);
        psql.args(["-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1", "-c", sql]);
        psql
    }

    pub(crate) fn execute(&self, database: &str, sql: &str) {
        let out = self.psql(database, sql).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn program(&self, name: &str) -> PathBuf {
        let here = self.programs.join(name);
        if here.exists() { here } else { name.into() }
    }

    /// How others connect to a database of it.
    #[cfg(feature = "cala-ledger")]
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.directory.display())
    }

    /// Transfers a second by 8 clients, which debit as many accounts.
    pub(crate) fn round(&self, debits: u64) -> f64 {
        let path = self.directory.join("transfer.sql");
        std::fs::write(&path, script(debits)).unwrap();
        let mut pgbench = run(self.user, self.program("pgbench"));
        pgbench
            .arg("-h")
            .arg(&self.directory)
            .args(["-U", "postgres", "-n", "-c", "8", "-j", "2", "-M", "prepared", "-T"]);
        pgbench.arg(ROUND.as_secs().to_string()).arg("-f").arg(path).arg("postgres");
        let out = pgbench.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)))
    }

    /// That it did what it says.
    pub(crate) fn verify(&self) {
        let check = "DO $$ BEGIN
            ASSERT (SELECT sum(balance) FROM account) = 0;
            ASSERT (SELECT count(*) FROM entry) = 2 * (SELECT count(*) FROM journal);
        END $$";
        self.execute("postgres", check);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn run(user: Option<[u32; 2]>, program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if let Some([user, group]) = user {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}
