//! What a publisher asks for beyond a consumer's policy. It can only ever make the policy refuse more.
//!
//! ```text
//! accepted statuses, grace   those of the policy that every floor names too
//! evaluation number          the highest
//! GPU firmware               the policy's floors, and every other one
//! ```

use super::Policy;
use crate::gpu::GpuFloor;

/// One publisher's floors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floors {
    /// Statuses of a platform that are fine, in Intel's words; empty says nothing.
    pub accept: Vec<String>,
    /// Lowest tcbEvaluationDataNumber.
    pub min_evaluation: u32,
    /// Lowest firmware of GPUs, by chip.
    pub gpu: Vec<GpuFloor>,
}

impl Policy {
    /// The same policy, where it already asks for as much, or a stricter one.
    pub fn tightened(&self, floors: &[Floors]) -> Policy {
        let mut policy = self.clone();
        let settings = &mut policy.settings;
        for floor in floors {
            let fine = |status: &dcap_qvl::TcbStatus| {
                floor.accept.is_empty() || floor.accept.contains(&status.to_string())
            };
            settings.accept.retain(|status| fine(status));
            settings.grace.retain(|(status, _)| fine(status));
            settings.min_evaluation = settings.min_evaluation.max(floor.min_evaluation);
            let new = floor.gpu.iter().filter(|one| !self.settings.gpu.floors.contains(one));
            settings.gpu.floors.extend(new.cloned());
        }
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicyFile;
    use crate::policy::Settings;
    use proptest::prelude::*;

    const STATUSES: [&str; 6] = [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ];

    fn policy(accept: &[&str], grace: &[&str], min_evaluation: u32) -> Policy {
        let grace: Vec<_> = grace.iter().map(|status| format!("{status} = 30")).collect();
        let text = format!(
            "schema = 1\nplatform = \"tdx\"\n[tcb]\naccept = {accept:?}\ngrace = {{ {} }}\nmin-evaluation = {min_evaluation}\n\
             [gpu]\ndriver-min = \"550.1\"\n",
            grace.join(", ")
        );
        PolicyFile::parse(&text).unwrap().resolve_production().unwrap()
    }

    fn statuses() -> impl Strategy<Value = Vec<&'static str>> {
        proptest::sample::subsequence(STATUSES.to_vec(), 0..=6)
    }

    fn floors() -> impl Strategy<Value = Floors> {
        let gpu = proptest::collection::vec(
            ("GH100|GB100", "[0-9]{3}\\.[0-9]{2}", "[0-9A-F]{2}\\.[0-9A-F]{2}"),
            0..3,
        );
        (statuses(), 0u32..40, gpu).prop_map(|(accept, min_evaluation, gpu)| Floors {
            accept: accept.into_iter().map(str::to_owned).collect(),
            min_evaluation,
            gpu: gpu
                .into_iter()
                .map(|(model, driver_min, vbios_min)| GpuFloor { model, driver_min, vbios_min })
                .collect(),
        })
    }

    /// Whether everything that `a` lets through, `b` lets through as well.
    fn within(a: &Settings, b: &Settings) -> bool {
        let same_otherwise = Settings {
            accept: b.accept.clone(),
            grace: b.grace.clone(),
            min_evaluation: b.min_evaluation,
            gpu: crate::gpu::GpuSettings { floors: b.gpu.floors.clone(), ..a.gpu.clone() },
            ..a.clone()
        };
        a.accept.iter().all(|status| b.accept.contains(status))
            && a.grace.iter().all(|grace| b.grace.contains(grace))
            && a.min_evaluation >= b.min_evaluation
            && b.gpu.floors.iter().all(|floor| a.gpu.floors.contains(floor))
            && format!("{same_otherwise:?}") == format!("{b:?}")
    }

    proptest! {
        #[test]
        fn whatever_is_published_a_policy_only_gets_stricter(
            accept in statuses(), grace in statuses(), min in 0u32..40, floors in proptest::collection::vec(floors(), 0..5)
        ) {
            let policy = policy(&accept, &grace, min);
            let tight = policy.tightened(&floors);
            prop_assert!(within(&tight.settings, &policy.settings));
            for one in &floors {
                prop_assert!(within(&tight.settings, &policy.tightened(std::slice::from_ref(one)).settings));
            }
            let again = tight.tightened(&floors);
            prop_assert!(within(&again.settings, &tight.settings) && within(&tight.settings, &again.settings));
        }
    }

    #[test]
    fn floors_that_say_nothing_change_nothing_and_a_status_that_the_policy_refuses_is_never_added() {
        let strict = policy(&["UpToDate"], &[], 7);
        assert_eq!(strict.tightened(&[Floors::default()]).settings.accept, strict.settings.accept);
        let loose = Floors { accept: STATUSES.map(str::to_owned).into(), ..Floors::default() };
        let same = strict.tightened(&[loose]);
        assert_eq!((same.settings.accept.len(), same.settings.min_evaluation), (1, 7));
        let none = Floors { accept: vec!["OutOfDate".into()], min_evaluation: 9, ..Floors::default() };
        let tight = strict.tightened(&[none]);
        assert_eq!((tight.settings.accept.len(), tight.settings.min_evaluation), (0, 9));
    }
}
