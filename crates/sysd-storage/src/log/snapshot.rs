//! Taking, writing and reading snapshots. The rules are the manifest's.

use bytes::Bytes;
use sysd_core::{
    Clock as _, Effect, Error, ErrorKind, Expect, Key, Outcome, Result, StateMachine, Store, Version, Write,
};

use super::calls::Calls;
use super::config::Bug;
use super::manifest::{Manifest, Snapshot};
use super::state::State;

/// Larger chunks would stop other traffic of the store while they travel.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// How often a manifest that others keep changing is tried.
const MANIFEST_ATTEMPTS: u32 = 64;
/// How often a snapshot that is removed while it is read is looked up again.
const READ_ATTEMPTS: u32 = 16;
/// How many chunks are read or written at once.
const CHUNKS_AT_ONCE: u32 = 16;

impl<S: Store> Calls<S> {
    fn chunk_bytes(&self) -> usize {
        self.store.limits().value_bytes_max.clamp(1, CHUNK_BYTES_MAX)
    }

    async fn manifest(&self) -> Result<(Manifest, Option<Version>)> {
        let place = self.schema.manifest();
        match self.get(&place).await? {
            Some(record) => Ok((Manifest::decode(place.key(), &record.value)?, Some(record.version))),
            None => Ok((Manifest::default(), None)),
        }
    }

    /// Changes the manifest by compare-and-set; `change` may be called again on a newer one. Answers it as it was written,
    /// and what `change` answered.
    async fn change_manifest<T: Send>(
        &self,
        mut change: impl FnMut(&mut Manifest) -> T + Send,
    ) -> Result<(Manifest, T)> {
        let place = self.schema.manifest();
        for _ in 0..MANIFEST_ATTEMPTS {
            let (mut manifest, version) = self.manifest().await?;
            let before = manifest.clone();
            let answer = change(&mut manifest);
            if manifest == before {
                return Ok((manifest, answer));
            }
            let write = Write::put(place.key(), manifest.encode())
                .with_version(Version::mint(&self.config.entropy))
                .expect(version.map_or(Expect::Absent, Expect::Is));
            if let Outcome::Applied = self.write(&write).await? {
                return Ok((manifest, answer));
            }
        }
        let message = "others kept changing the log's manifest; take fewer snapshots at once";
        Err(Error::new(ErrorKind::Contention, Effect::None, message).with_key(place.key()))
    }

    /// Writes a snapshot of the state before entry `next`; answers the number that the newest snapshot covers now.
    ///
    /// # Cancel safety
    /// What was written is removed by a later snapshot.
    pub(super) async fn write_snapshot(&self, next: u64, bytes: Bytes) -> Result<(u64, u64)> {
        let size = bytes.len();
        let chunks = u32::try_from(size.div_ceil(self.chunk_bytes())).map_err(|_| {
            Error::new(ErrorKind::TooLarge, Effect::None, "the snapshot has too many chunks").with_field("snapshot")
        })?;
        let snapshot = Snapshot {
            id: Version::mint(&self.config.entropy).as_u128(),
            next,
            chunks,
            bytes: size as u64,
            checksum: crc32fast::hash(&bytes),
            at: self.config.clock.now(),
        };
        let (manifest, begun) = self.change_manifest(|manifest| manifest.begin(snapshot)).await?;
        if begun && self.config.has(Bug::ManifestFirst) {
            self.change_manifest(|manifest| manifest.complete(snapshot)).await?;
        }
        let mut newest = manifest.current;
        if begun {
            self.write_chunks(snapshot, &bytes).await?;
            newest = self.change_manifest(|manifest| manifest.complete(snapshot)).await?.0.current;
        }
        self.remove_garbage().await?;
        Ok(newest.map_or((0, 0), |newest| (newest.next, newest.bytes)))
    }

    async fn write_chunks(&self, snapshot: Snapshot, bytes: &Bytes) -> Result<()> {
        for (at, start) in (0..snapshot.chunks).zip((0..bytes.len()).step_by(self.chunk_bytes())) {
            let place = self.schema.chunk(snapshot.id, at);
            let chunk = bytes.slice(start..bytes.len().min(start + self.chunk_bytes()));
            let write = Write::put(place.key(), chunk).with_version(Version::mint(&self.config.entropy));
            let Outcome::Applied = self.write(&write).await? else {
                return Err(unconditional_conflict(place.key()));
            };
        }
        Ok(())
    }

    async fn remove_garbage(&self) -> Result<()> {
        let (manifest, _) = self.manifest().await?;
        if manifest.garbage.is_empty() {
            return Ok(());
        }
        for garbage in &manifest.garbage {
            for at in 0..garbage.chunks {
                let place = self.schema.chunk(garbage.id, at);
                let Outcome::Applied = self.write(&Write::delete(place.key())).await? else {
                    return Err(unconditional_conflict(place.key()));
                };
            }
        }
        self.change_manifest(|changed| changed.forget(&manifest.garbage)).await?;
        Ok(())
    }

    /// Reads the newest snapshot, with its size in bytes; `None` if none was ever taken.
    pub(super) async fn read_snapshot<M: StateMachine>(&self) -> Result<Option<(State<M>, u64)>> {
        let mut seen = None;
        for _ in 0..READ_ATTEMPTS {
            let Some(snapshot) = self.manifest().await?.0.current else { return Ok(None) };
            if seen == Some(snapshot) {
                break;
            }
            if let Some(bytes) = self.read_chunks(snapshot).await? {
                let place = self.schema.chunk(snapshot.id, 0);
                let state = State::decode(place.key(), &bytes)?;
                if state.next != snapshot.next {
                    return Err(Error::corrupt(place.key(), "the snapshot is not the one that the manifest names"));
                }
                return Ok(Some((state, snapshot.bytes)));
            }
            // A newer one took its place, and its chunks were removed meanwhile.
            seen = Some(snapshot);
        }
        let place = self.schema.manifest();
        Err(Error::corrupt(place.key(), "chunks of the log's newest snapshot are missing or changed"))
    }

    /// `None` if a chunk is missing, or their checksum is wrong.
    async fn read_chunks(&self, snapshot: Snapshot) -> Result<Option<Bytes>> {
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < snapshot.chunks {
            let end = snapshot.chunks.min(at + CHUNKS_AT_ONCE);
            let places: Vec<_> = (at..end).map(|at| self.schema.chunk(snapshot.id, at)).collect();
            for record in self.get_many(&places).await? {
                let Some(record) = record else { return Ok(None) };
                bytes.extend_from_slice(&record.value);
            }
            at = end;
        }
        Ok((crc32fast::hash(&bytes) == snapshot.checksum).then(|| bytes.into()))
    }
}

fn unconditional_conflict(key: Key<'_>) -> Error {
    let message = "the store answered a write without a condition with a conflict; certify it with sysd-testkit";
    Error::new(ErrorKind::Internal, Effect::Unknown, message).with_key(key)
}
