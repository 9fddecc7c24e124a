use ambit_api::envoy::pb::{
    envoy::{
        config::core::v3::{Metadata, RuntimeDouble},
        r#type::v3::Percent,
    },
    google::protobuf::{Struct, UInt64Value, Value, value::Kind},
};

use super::*;

fn check(change: impl FnOnce(&mut pb::Cluster), expected: Rules) {
    let mut cluster = pb::Cluster::default();
    change(&mut cluster);
    assert_eq!(rules(&mut cluster).unwrap(), expected);
    assert_eq!(cluster, pb::Cluster::default(), "nothing of it is left over");
}

fn check_rejected(change: impl FnOnce(&mut pb::Cluster), words: &str) {
    let mut cluster = pb::Cluster::default();
    change(&mut cluster);
    let outliers = cluster.outlier_detection.take().map(outliers).transpose().map(|_| ());
    let problem = rules(&mut cluster).map(|_| ()).and(outliers).unwrap_err().to_string();
    assert!(problem.contains(words), "{words} is not in {problem}");
}

fn common(change: impl FnOnce(&mut CommonLbConfig)) -> Option<CommonLbConfig> {
    let mut common = CommonLbConfig::default();
    change(&mut common);
    Some(common)
}

const fn value(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds, nanos: 0 })
}

#[test]
fn each_policy_of_load_balancing_is_compiled() {
    let with = |policy| Rules { policy, ..Rules::default() };
    check(|_| {}, Rules { policy: Policy::RoundRobin, panic_threshold: 50, by_locality: false, slow_start: None });
    check(|c| c.lb_policy = LbPolicy::Random as i32, with(Policy::Random));
    check(|c| c.lb_policy = LbPolicy::LeastRequest as i32, with(Policy::LeastRequest { choices: 2 }));
    for (asked, choices) in [(5, 5), (64, 64), (65, 64), (u32::MAX, 64)] {
        check(
            |c| {
                c.lb_policy = LbPolicy::LeastRequest as i32;
                let config = pb::cluster::LeastRequestLbConfig { choice_count: value(asked), ..Default::default() };
                c.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
            },
            with(Policy::LeastRequest { choices }),
        );
    }
    check(
        |c| {
            c.common_lb_config = common(|common| {
                common.healthy_panic_threshold = Some(Percent { value: 32.6 });
                common.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default()));
            });
        },
        Rules { policy: Policy::RoundRobin, panic_threshold: 33, by_locality: true, slow_start: None },
    );
}

#[test]
fn what_is_not_implemented_of_load_balancing_is_rejected_by_name() {
    let least = |config| Some(LbConfig::LeastRequestLbConfig(config));
    let of_least = |change: fn(&mut pb::cluster::LeastRequestLbConfig)| {
        move |c: &mut pb::Cluster| {
            let mut config = Default::default();
            change(&mut config);
            (c.lb_policy, c.lb_config) = (LbPolicy::LeastRequest as i32, least(config));
        }
    };
    check_rejected(
        |c| c.lb_policy = LbPolicy::LoadBalancingPolicyConfig as i32,
        "lb_policy: LOAD_BALANCING_POLICY_CONFIG is not implemented",
    );
    check_rejected(|c| c.lb_config = least(Default::default()), "lb_config of another lb_policy is not implemented");
    check_rejected(of_least(|config| config.choice_count = value(1)), "least_request_lb_config: choice_count: 1 is less than 2");
    check_rejected(
        of_least(|config| config.active_request_bias = Some(RuntimeDouble::default())),
        "least_request_lb_config: active_request_bias is not implemented",
    );
    let subsets = pb::Cluster { lb_subset_config: Some(Default::default()), ..Default::default() };
    let problem = super::super::cluster::cluster(subsets).unwrap_err().to_string();
    assert!(problem.contains("lb_subset_config is not implemented"), "{problem}");
    let zones = || common(|c| c.locality_config_specifier = Some(LocalityConfigSpecifier::ZoneAwareLbConfig(Default::default())));
    check_rejected(|c| c.common_lb_config = zones(), "common_lb_config: zone_aware_lb_config is not implemented");
    let merged = || common(|c| c.update_merge_window = seconds(1));
    check_rejected(|c| c.common_lb_config = merged(), "common_lb_config: update_merge_window is not implemented");
    let many = || common(|c| c.healthy_panic_threshold = Some(Percent { value: 101.0 }));
    check_rejected(|c| c.common_lb_config = many(), "healthy_panic_threshold: 101 is no percentage");
}

fn ring_of(change: fn(&mut RingHashLbConfig)) -> impl FnOnce(&mut pb::Cluster) {
    move |c| {
        let mut config = RingHashLbConfig::default();
        change(&mut config);
        (c.lb_policy, c.lb_config) = (LbPolicy::RingHash as i32, Some(LbConfig::RingHashLbConfig(config)));
    }
}

fn maglev_of(size: u64) -> impl FnOnce(&mut pb::Cluster) {
    move |c| {
        let config = MaglevLbConfig { table_size: places(size) };
        (c.lb_policy, c.lb_config) = (LbPolicy::Maglev as i32, Some(LbConfig::MaglevLbConfig(config)));
    }
}

const fn places(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

#[test]
fn rings_and_tables_of_hashes_are_compiled_with_the_bounds_that_envoy_has() {
    let with = |hashing| Rules { policy: Policy::Hash(hashing), ..Rules::default() };
    let default = with(Hashing::Ring { least: 1024, most: 1 << 20 });
    check(|c| c.lb_policy = LbPolicy::RingHash as i32, default.clone());
    check(ring_of(|_| {}), default);
    let bounds = |config: &mut RingHashLbConfig| {
        (config.minimum_ring_size, config.maximum_ring_size) = (places(7), places(2_000_000));
    };
    check(ring_of(bounds), with(Hashing::Ring { least: 7, most: 1 << 20 }));
    check(|c| c.lb_policy = LbPolicy::Maglev as i32, with(Hashing::Maglev { size: 65_537 }));
    for size in [2, 3, 251, 5_000_011] {
        check(maglev_of(size.into()), with(Hashing::Maglev { size }));
    }
    for size in [0, 1, 4, 65_536, 4_999_998] {
        check_rejected(maglev_of(size), &format!("maglev_lb_config.table_size: {size} is no prime"));
    }
    check_rejected(maglev_of(5_000_077), "maglev_lb_config.table_size: 5000077 is more than 5000011");
    let murmur = ring_of(|config| config.hash_function = HashFunction::MurmurHash2 as i32);
    check_rejected(murmur, "ring_hash_lb_config.hash_function: MURMUR_HASH_2 is not implemented");
    let large = ring_of(|config| config.maximum_ring_size = places(8_388_609));
    check_rejected(large, "ring_hash_lb_config.maximum_ring_size: 8388609 is more than 8388608");
    let crossed = ring_of(|config| config.maximum_ring_size = places(1000));
    check_rejected(crossed, "ring_hash_lb_config.minimum_ring_size: 1024 is more than maximum_ring_size, 1000");
    let other = |c: &mut pb::Cluster| {
        (c.lb_policy, c.lb_config) = (LbPolicy::RingHash as i32, Some(LbConfig::MaglevLbConfig(MaglevLbConfig::default())));
    };
    check_rejected(other, "lb_config of another lb_policy is not implemented");
}

#[test]
fn peak_ewma_is_least_request_with_a_word_of_our_own() {
    let of = |policy: LbPolicy, word: &str| {
        let kind = Some(Kind::StringValue(word.to_owned()));
        let fields = [("load_balancing".to_owned(), Value { kind })].into_iter().collect();
        let filter_metadata = [("io.ambit".to_owned(), Struct { fields })].into_iter().collect();
        let metadata = Some(Metadata { filter_metadata, ..Default::default() });
        let cluster = pb::Cluster { lb_policy: policy as i32, metadata, ..Default::default() };
        super::super::cluster::cluster(cluster).unwrap().balance.policy
    };
    assert_eq!(of(LbPolicy::LeastRequest, "peak_ewma"), Policy::PeakEwma);
    assert_eq!(of(LbPolicy::LeastRequest, "another"), Policy::LeastRequest { choices: 2 });
    assert_eq!(of(LbPolicy::Random, "peak_ewma"), Policy::Random);
}

#[test]
fn probation_is_a_word_of_our_own_and_has_shares_grow_where_there_are_any_and_nobody_says_how() {
    let of = |policy: LbPolicy, word: &str, change: &dyn Fn(&mut pb::Cluster)| {
        let kind = Some(Kind::StringValue(word.to_owned()));
        let fields = [("outlier_detection".to_owned(), Value { kind })].into_iter().collect();
        let filter_metadata = [("io.ambit".to_owned(), Struct { fields })].into_iter().collect();
        let metadata = Some(Metadata { filter_metadata, ..Default::default() });
        let outlier_detection = Some(pb::OutlierDetection::default());
        let mut cluster = pb::Cluster { lb_policy: policy as i32, metadata, outlier_detection, ..Default::default() };
        change(&mut cluster);
        let cluster = super::super::cluster::cluster(cluster).unwrap();
        (cluster.outliers.map(|rules| rules.probation), cluster.balance.slow_start)
    };
    let (as_it_is, slow) = (|_: &mut pb::Cluster| {}, Some(SlowStart::OF_RETURNING));
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
        assert_eq!(of(policy, "probation", &as_it_is), (Some(true), slow));
        assert_eq!(of(policy, "another", &as_it_is), (Some(false), None), "as in Envoy");
    }
    for policy in [LbPolicy::Random, LbPolicy::RingHash, LbPolicy::Maglev] {
        assert_eq!(of(policy, "probation", &as_it_is), (Some(true), None), "without shares");
    }
    let nobody = |cluster: &mut pb::Cluster| cluster.outlier_detection = None;
    assert_eq!(of(LbPolicy::RoundRobin, "probation", &nobody), (None, None));
    let said = |cluster: &mut pb::Cluster| slowly(lasting(30))(cluster);
    let (probation, slow) = of(LbPolicy::RoundRobin, "probation", &said);
    assert_eq!((probation, slow.map(|slow| slow.window)), (Some(true), Some(Duration::from_secs(30))));
}

/// Round robin with a slow start.
fn slowly(said: SlowStartConfig) -> impl FnOnce(&mut pb::Cluster) {
    let config = pb::cluster::RoundRobinLbConfig { slow_start_config: Some(said) };
    |c| c.lb_config = Some(LbConfig::RoundRobinLbConfig(config))
}

/// A slow start of so many seconds.
fn lasting(window: i64) -> SlowStartConfig {
    SlowStartConfig { slow_start_window: seconds(window), ..Default::default() }
}

fn aggression(default_value: f64) -> Option<RuntimeDouble> {
    Some(RuntimeDouble { default_value, runtime_key: "some.key".into() })
}

#[test]
fn a_slow_start_is_compiled_for_both_policies_that_go_by_weights() {
    let expected =
        SlowStart { window: Duration::from_secs(30), aggression: 1.0, least_percent: 10.0, new: true, after_ejection: false };
    check(slowly(lasting(30)), Rules { slow_start: Some(expected), ..Rules::default() });
    check(
        |c| {
            let min_weight_percent = Some(Percent { value: 2.5 });
            let said = SlowStartConfig { aggression: aggression(1.5), min_weight_percent, ..lasting(30) };
            let config = pb::cluster::LeastRequestLbConfig { slow_start_config: Some(said), ..Default::default() };
            (c.lb_policy, c.lb_config) = (LbPolicy::LeastRequest as i32, Some(LbConfig::LeastRequestLbConfig(config)));
        },
        Rules {
            policy: Policy::LeastRequest { choices: 2 },
            slow_start: Some(SlowStart { aggression: 1.5, least_percent: 2.5, ..expected }),
            ..Rules::default()
        },
    );
    check(slowly(SlowStartConfig::default()), Rules::default());
    let rejected = |said: SlowStartConfig, words: &str| check_rejected(slowly(said), words);
    let of = "round_robin_lb_config.slow_start_config";
    rejected(SlowStartConfig { aggression: aggression(0.0), ..lasting(1) }, &format!("{of}.aggression: 0 is not more than"));
    rejected(SlowStartConfig { aggression: aggression(f64::NAN), ..lasting(1) }, "aggression: NaN is not more than");
    let percent = Some(Percent { value: 100.5 });
    rejected(SlowStartConfig { min_weight_percent: percent, ..lasting(1) }, "min_weight_percent: 100.5 is no percentage");
    rejected(lasting(-1), &format!("{of}.slow_start_window: a negative length of time"));
}

#[test]
fn outlier_detection_has_the_defaults_of_envoy() {
    assert_eq!(outliers(pb::OutlierDetection::default()).unwrap(), OutlierDetection::default());
    let long = pb::OutlierDetection { base_ejection_time: seconds(400), ..Default::default() };
    assert_eq!(outliers(long).unwrap().max_time, Duration::from_secs(400));
    let said = pb::OutlierDetection {
        consecutive_gateway_failure: value(7),
        enforcing_consecutive_gateway_failure: value(100),
        consecutive_5xx: value(0),
        enforcing_success_rate: value(0),
        max_ejection_percent: value(100),
        always_eject_one_host: Some(Default::default()),
        interval: seconds(1),
        enforcing_failure_percentage: value(90),
        enforcing_failure_percentage_local_origin: value(80),
        failure_percentage_threshold: value(70),
        failure_percentage_minimum_hosts: value(2),
        failure_percentage_request_volume: value(3),
        ..Default::default()
    };
    let or = OutlierDetection::default();
    let expected = OutlierDetection {
        server_errors: Enforced { failures: 0, ..or.server_errors },
        gateway_failures: Enforced { failures: 7, percent: 100 },
        success_rate: SuccessRate { enforcing: 0, ..or.success_rate },
        max_percent: 100,
        interval: Duration::from_secs(1),
        failure_percentage: FailurePercentage {
            threshold: 70,
            enforcing: 90,
            enforcing_local: 80,
            minimum_hosts: 2,
            request_volume: 3,
        },
        ..or
    };
    assert_eq!(outliers(said).unwrap(), expected);
}

#[test]
fn what_is_not_implemented_of_outlier_detection_is_rejected_by_name() {
    type Change = fn(&mut pb::OutlierDetection);
    let cases: [(Change, &str); 7] = [
        (|o| o.enforcing_failure_percentage = value(101), "enforcing_failure_percentage: 101 is no percentage"),
        (|o| o.detect_degraded_hosts = Some(Default::default()), "detect_degraded_hosts is not implemented"),
        (|o| o.monitors = vec![Default::default()], "monitors is not implemented"),
        (|o| o.enforcing_consecutive_5xx = value(101), "enforcing_consecutive_5xx: 101 is no percentage"),
        (|o| o.max_ejection_percent = value(200), "max_ejection_percent: 200 is no percentage"),
        (|o| o.interval = seconds(0), "interval: is nothing"),
        (|o| o.max_ejection_time = seconds(29), "max_ejection_time: is less than base_ejection_time"),
    ];
    for (change, words) in cases {
        let mut said = pb::OutlierDetection::default();
        change(&mut said);
        check_rejected(|c| c.outlier_detection = Some(said), words);
    }
}
