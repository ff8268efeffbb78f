//! BootOrder and the boot options as they are measured: captured ones where they are given, the firmware's own else.
//!
//! Both are hashed by the variable's data alone (EDK2 `Tcg2Dxe` and `TdTcg2Dxe`, `MeasureAllBootVariables`): first
//! BootOrder, then each option in its order.

use super::boot_options::BootOption;
use super::plan::Planned;
use super::profile::BootManager;
use crate::error::{Input, MeasureError, View};
use crate::event::Event;
use crate::shape::{Boot, slot};
use std::collections::BTreeMap;

/// A machine of ours has three options; firmware with network boot makes some ten.
const MAX_OPTIONS: usize = 256;

/// Boot variables of a machine, as captured: the variables' data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootVariables {
    /// BootOrder: numbers of options, 16 bits each.
    pub order: Option<Vec<u8>>,
    /// Options (EFI_LOAD_OPTION) by number.
    pub options: BTreeMap<u16, Vec<u8>>,
}

/// Events of BootOrder and its options; `stale` says that the variable store held some.
pub(super) fn plan(
    boot: Boot,
    manager: &BootManager,
    captured: &BootVariables,
    stale: bool,
) -> Result<Vec<Planned<'static>>, MeasureError> {
    let derived = derive(boot, manager, stale);
    let order = match (&captured.order, &derived) {
        (Some(order), _) => numbers(order)?,
        (None, Ok(options)) => options.iter().map(|o| o.number).collect(),
        (None, Err(why)) => return Ok(vec![Planned::unpredicted(1, Event::BootOrder, why)]),
    };
    if let Some(number) = captured.options.keys().find(|n| !order.contains(n)) {
        let fault = format!("Boot{number:04X} was captured, but BootOrder doesn't name it");
        return Err(MeasureError::Conflict { fault, hint: "give the boot variables of one machine" });
    }
    let data = order.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let mut planned = vec![Planned::owned(1, Event::BootOrder, data)];
    for number in order {
        let own = derived.as_ref().ok().and_then(|options| options.iter().find(|o| o.number == number));
        planned.push(match (captured.options.get(&number), own) {
            (Some(data), _) => captured_option(number, data)?,
            (None, Some(option)) => Planned::owned(1, option.event(), option.data.clone()),
            (None, None) => {
                let event = Event::BootOption { number, description: "not captured".into() };
                Planned::unpredicted(
                    1,
                    event,
                    "BootOrder names it, but it was neither captured nor is it the firmware's own",
                )
            }
        });
    }
    Ok(planned)
}

fn numbers(order: &[u8]) -> Result<Vec<u16>, MeasureError> {
    let view = View::new(Input::BootVariables, order);
    let (pairs, rest) = order.as_chunks::<2>();
    if !rest.is_empty() || pairs.is_empty() || pairs.len() > MAX_OPTIONS {
        let fault = format!("BootOrder of {} bytes, expected 1 to {MAX_OPTIONS} numbers of two", order.len());
        return Err(view.fault(0, fault));
    }
    Ok(pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

/// An option's event is named by its description: NUL-terminated UTF-16 behind attributes and path length.
fn captured_option(number: u16, data: &[u8]) -> Result<Planned<'static>, MeasureError> {
    let view = View::new(Input::BootVariables, data);
    let path = usize::from(view.u16(4, "length of the option's device path")?);
    let units = view.bytes.get(6..).unwrap_or_default().as_chunks::<2>().0;
    let units: Vec<u16> = units.iter().map(|u| u16::from_le_bytes(*u)).take_while(|u| *u != 0).collect();
    let behind = 6 + 2 * (units.len() + 1);
    view.slice(behind, path, "device path of the boot option")?;
    let description = String::from_utf16_lossy(&units);
    Ok(Planned::owned(1, Event::BootOption { number, description }, data))
}

/// What the firmware makes of a pristine store; the error is the reason why that isn't known.
fn derive(boot: Boot, manager: &BootManager, stale: bool) -> Result<Vec<BootOption>, &'static str> {
    if stale {
        return Err("the variable store holds boot variables; give a pristine store");
    }
    let volume = manager.volume.as_ref();
    let volume = volume.ok_or("the firmware's DXE volume has no name, which its boot options carry")?;
    if !manager.has_ui_app {
        return Err("the firmware's DXE volume has no user interface, so its boot options aren't known");
    }
    let own = if manager.has_menu {
        vec![BootOption::menu(volume), BootOption::setup(volume)]
    } else {
        vec![BootOption::ui_app(volume)]
    };
    if boot == Boot::Direct {
        return Ok(own);
    }
    let next = own.len() as u16;
    let shell = manager.has_shell.then(|| BootOption::shell(next + 1, volume, manager.has_menu));
    Ok([BootOption::root_disk(next, slot::ROOT_DISK)].into_iter().chain(own).chain(shell).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manager() -> BootManager {
        BootManager { volume: Some([7; 16]), has_ui_app: true, has_menu: false, has_shell: true }
    }

    fn names(captured: &BootVariables) -> Vec<String> {
        let planned = plan(Boot::Direct, &manager(), captured, false).unwrap();
        planned.iter().map(|p| format!("{}{}", p.event, if p.message.is_err() { " ?" } else { "" })).collect()
    }

    fn option(description: &str) -> Vec<u8> {
        let text: Vec<u8> = description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        [&[1, 0, 0, 0, 4, 0][..], &text, &[0x7f, 0xff, 4, 0]].concat()
    }

    #[test]
    fn the_firmwares_own_options_stand_where_none_were_captured() {
        assert_eq!(names(&BootVariables::default()), ["variable BootOrder", "variable Boot0000 (UiApp)"]);
    }

    #[test]
    fn firmware_with_a_menu_of_its_own_has_two_options() {
        let names = |boot| {
            let manager = BootManager { has_menu: true, ..manager() };
            let planned = plan(boot, &manager, &BootVariables::default(), false).unwrap();
            planned.iter().skip(1).map(|p| p.event.to_string()).collect::<Vec<_>>()
        };
        let own = ["variable Boot0000 (BootManagerMenuApp)", "variable Boot0001 (EFI Firmware Setup)"];
        assert_eq!(names(Boot::Direct), own);
        assert_eq!(names(Boot::Disk)[0], "variable Boot0002 (UEFI Misc Device)");
    }

    #[test]
    fn captured_variables_come_first_and_the_rest_is_derived() {
        let captured = BootVariables {
            order: Some(vec![3, 0, 0, 0, 9, 0]),
            options: BTreeMap::from([(3, option("UEFI Floppy"))]),
        };
        let expected = ["variable BootOrder", "variable Boot0003 (UEFI Floppy)", "variable Boot0000 (UiApp)"];
        assert_eq!(names(&captured)[..3], expected);
        assert_eq!(names(&captured)[3], "variable Boot0009 (not captured) ?");
    }

    #[test]
    fn variables_that_contradict_each_other_are_refused() {
        let refused = |captured: BootVariables| {
            plan(Boot::Direct, &manager(), &captured, false).err().unwrap().to_string()
        };
        let stray = BootVariables { order: None, options: BTreeMap::from([(5, option("x"))]) };
        assert!(refused(stray).contains("Boot0005 was captured, but BootOrder doesn't name it"));
        let odd = BootVariables { order: Some(vec![0, 0, 1]), options: BTreeMap::new() };
        assert!(refused(odd).contains("BootOrder of 3 bytes"));
        let short =
            BootVariables { order: None, options: BTreeMap::from([(0, vec![1, 0, 0, 0, 9, 0, 0, 0])]) };
        assert!(
            refused(short).contains("boot variables at offset 0x8: device path of the boot option needs 9")
        );
    }

    proptest! {
        #[test]
        fn hostile_variables_never_panic(order: Vec<u8>, data: Vec<u8>) {
            let captured = BootVariables { order: Some(order), options: BTreeMap::from([(0, data)]) };
            let _ = plan(Boot::Disk, &manager(), &captured, false);
        }
    }
}
