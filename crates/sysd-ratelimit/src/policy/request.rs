//! What a policy sees of a request.

use std::net::IpAddr;

/// What a policy sees of a request.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    /// The method, as it was sent.
    pub method: &'a str,
    /// The path as the router sees it; a query behind it is passed over.
    pub path: &'a str,
    /// The address that connected; `None` where there is none, as on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Who is signed in, if the application found that out; it must not be what a client merely claims.
    pub user: Option<&'a str>,
    /// The headers.
    pub headers: &'a dyn Headers,
}

/// The headers of a request.
pub trait Headers: Sync {
    /// Gives `each` every value of the header `name`, which is in lower case, in the order in which they came; names are compared
    /// without regard to case. A line is one value.
    fn visit<'a>(&'a self, name: &str, each: &mut dyn FnMut(&'a [u8]));
}

fn visit_pairs<'a, N: AsRef<str>, V: AsRef<[u8]>>(pairs: &'a [(N, V)], name: &str, each: &mut dyn FnMut(&'a [u8])) {
    for (_, value) in pairs.iter().filter(|(other, _)| other.as_ref().eq_ignore_ascii_case(name)) {
        each(value.as_ref());
    }
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync> Headers for &[(N, V)] {
    fn visit<'a>(&'a self, name: &str, each: &mut dyn FnMut(&'a [u8])) {
        visit_pairs(self, name, each);
    }
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync, const COUNT: usize> Headers for [(N, V); COUNT] {
    fn visit<'a>(&'a self, name: &str, each: &mut dyn FnMut(&'a [u8])) {
        visit_pairs(self, name, each);
    }
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync> Headers for Vec<(N, V)> {
    fn visit<'a>(&'a self, name: &str, each: &mut dyn FnMut(&'a [u8])) {
        visit_pairs(self, name, each);
    }
}

impl<'a> RequestView<'a> {
    /// The first value of the header, without the space around it; one that is empty is none.
    pub(super) fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut first = None;
        self.headers.visit(name, &mut |value| first = first.or(Some(value)));
        first.map(<[u8]>::trim_ascii).filter(|value| !value.is_empty())
    }
}
