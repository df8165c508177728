//! What pinned maps were made with, read so that no layout is taken for another one.

use std::{os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, ensure};
use aya::maps::{MapData, MapType};
use lb_common::abi::{ABI_VERSION, Settings};

use super::bpf;

/// Most bytes that settings may have; those of any layout are far smaller.
const LARGEST: u32 = 4096;

/// The settings in the map that is pinned at `pin`; `None` if they were never written.
///
/// # Errors
/// They are of another layout than this program's, whatever their size; or that is no map of settings.
pub(super) fn read(pin: &Path) -> anyhow::Result<Option<Settings>> {
    let bytes = first_element(pin).with_context(|| format!("cannot read {}", pin.display()))?;
    understand(&bytes, ABI_VERSION)
}

/// What `bytes` say: their first four are the version of the layout in every one. `ours` is this program's.
fn understand(bytes: &[u8], ours: u32) -> anyhow::Result<Option<Settings>> {
    let version = bytes.first_chunk().copied().map(u32::from_ne_bytes);
    let version = version.context("too short for the settings of any layout")?;
    if version == 0 {
        return Ok(None);
    }
    ensure!(
        version == ours,
        "made with the {} table layout {version}, and this weir has layout {ours}: run a weir of that layout, or \
         `weir detach` first, which stops forwarding",
        if version < ours { "older" } else { "newer" },
    );
    let size = size_of::<Settings>();
    ensure!(
        bytes.len() == size,
        "made with {} bytes of settings under layout {ours}, which has {size}: by a weir that was never released; \
         `weir detach`, which stops forwarding, removes them",
        bytes.len(),
    );
    Ok(Some(bytemuck::pod_read_unaligned(bytes)))
}

/// The first element of the array that is pinned at `pin`, of whatever size.
fn first_element(pin: &Path) -> anyhow::Result<Vec<u8>> {
    let map = MapData::from_pin(pin)?;
    let info = map.info()?;
    let size = info.value_size();
    ensure!(matches!(info.map_type(), Ok(MapType::Array)) && size <= LARGEST, "it does not look like weir's");
    // Rounded up: what the kernel copies for some kinds of maps.
    let mut value = vec![0_u8; size.next_multiple_of(8) as usize];
    // SAFETY: `value` has room for an element of this array.
    unsafe { bpf::look_up(map.fd().as_fd(), 0, &mut value) }?;
    value.truncate(size as usize);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_version(version: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0x5a; length];
        bytes[..4].copy_from_slice(&version.to_ne_bytes());
        bytes
    }

    /// The layout that these tests pretend to have.
    const OURS: u32 = 7;

    #[test]
    fn settings_of_this_layout_are_read() {
        let settings = Settings { abi_version: OURS, seed: [1, 2], ..Settings::default() };
        assert_eq!(understand(bytemuck::bytes_of(&settings), OURS).unwrap(), Some(settings));
        assert_eq!(understand(bytemuck::bytes_of(&Settings::default()), OURS).unwrap(), None, "an unfinished start");
    }

    #[test]
    fn other_layouts_are_refused_whatever_their_size() {
        for length in [4, 8, size_of::<Settings>(), size_of::<Settings>() + 8, 400] {
            for (version, age) in [(1, "older"), (OURS - 1, "older"), (OURS + 1, "newer"), (u32::MAX, "newer")] {
                let error = understand(&with_version(version, length), OURS).unwrap_err().to_string();
                let said = format!("the {age} table layout {version}, and this weir has layout 7");
                assert!(error.contains(&said), "{error}");
            }
        }
    }

    #[test]
    fn this_layout_in_another_size_is_refused() {
        for length in [4, size_of::<Settings>() - 8, size_of::<Settings>() + 8] {
            let error = understand(&with_version(OURS, length), OURS).unwrap_err().to_string();
            assert!(error.contains(&format!("with {length} bytes of settings under layout 7")), "{error}");
        }
        assert!(understand(&[7, 0, 0], OURS).is_err());
    }
}
