//! Which addresses are not of the public internet, and a resolver that finds only the others.
//!
//! For targets that strangers may choose. The name is looked up, what it gives is checked, and the connection goes to an address
//! that passed: a name that answers differently the next time gains nothing.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// IPv4 blocks that do not lead to the public internet, as network and prefix length (IANA special-purpose registry).
const PRIVATE_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier-grade NAT; Alibaba's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's metadata, at a public address
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; the metadata of the other clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments; Oracle's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 3),      // multicast, reserved, broadcast
];

/// True for an address that only this machine or its own network reaches, or nobody.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    PRIVATE_V4.iter().any(|(network, prefix)| {
        let mask = u32::MAX << (32 - prefix);
        address.to_bits() & mask == network.to_bits()
    })
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| {
        is_private_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match (a, b) {
        // Mapped, translated and compatible IPv4, with `::` and `::1` among them.
        (0, 0) if (c, d) == (0, 0) => match (e, f) {
            (0, 0 | 0xffff) | (0xffff, 0) => embedded(g, h),
            _ => true,
        },
        // NAT64 leads to an IPv4 address; its local block to wherever it is set up.
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => embedded(g, h),
        // 6to4 carries the IPv4 address of its router.
        (0x2002, _) => embedded(b, c),
        // Of the assigned space 2000::/3, what is not for hosts: Teredo and other protocols, documentation.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => true,
        // What else is not 2000::/3 is loopback, unique local, link-local, site-local, multicast or unassigned.
        _ => a & 0xe000 != 0x2000,
    }
}

/// Looks names up, and passes over private addresses when it is told to.
#[derive(Clone)]
pub(crate) struct Resolver {
    system: GaiResolver,
    refuse_private: bool,
}

impl Resolver {
    pub(super) fn new(refuse_private: bool) -> Self {
        Self {
            system: GaiResolver::new(),
            refuse_private,
        }
    }
}

/// The name has no other addresses.
#[derive(Debug)]
pub(super) struct OnlyPrivate(usize);

impl fmt::Display for OnlyPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => write!(f, "the name has no address"),
            _ => write!(
                f,
                "the name leads to a private address, which refuse_private forbids"
            ),
        }
    }
}

impl std::error::Error for OnlyPrivate {}

/// Those of `found` that may be connected to.
pub(super) fn allowed(
    found: Vec<SocketAddr>,
    refuse_private: bool,
) -> Result<Vec<SocketAddr>, OnlyPrivate> {
    if !refuse_private {
        return Ok(found);
    }
    let count = found.len();
    let mut public = found;
    public.retain(|address| !is_private(address.ip()));
    match public.is_empty() {
        true => Err(OnlyPrivate(count)),
        false => Ok(public),
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.system.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (looking, refuse_private) = (self.system.call(name), self.refuse_private);
        Box::pin(async move {
            let found = looking.await?.collect();
            let allowed = allowed(found, refuse_private);
            Ok(allowed.map_err(io::Error::other)?.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_public_internet_are_told_from_all_others() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "1::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "223.255.255.255",
            "168.63.129.17",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_name_with_both_leads_to_the_public_one_alone() {
        let parse = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let both = vec![parse("10.0.0.1:1"), parse("8.8.8.8:1"), parse("[::1]:1")];
        assert_eq!(allowed(both.clone(), true).unwrap(), [parse("8.8.8.8:1")]);
        assert_eq!(allowed(both.clone(), false).unwrap(), both);
        assert!(allowed(vec![parse("10.0.0.1:1")], true).is_err());
        assert!(allowed(Vec::new(), true).is_err());
    }
}
