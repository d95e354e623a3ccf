//! A list that grows by blocks, so that nothing in it is ever moved.

/// Things in the order in which they came; `N` to a block.
#[derive(Debug)]
pub(super) struct Blocks<T, const N: usize>(Vec<Vec<T>>);

impl<T, const N: usize> Default for Blocks<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> Blocks<T, N> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * N + last.len())
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.0.get(at / N).and_then(|block| block.get(at % N))
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        self.0.get_mut(at / N).and_then(|block| block.get_mut(at % N))
    }

    #[inline]
    pub(super) fn push(&mut self, value: T) {
        match self.0.last_mut() {
            Some(block) if block.len() < N => block.push(value),
            _ => {
                let mut block = Vec::with_capacity(N);
                block.push(value);
                self.0.push(block);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}
