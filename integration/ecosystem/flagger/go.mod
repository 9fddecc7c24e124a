module ambit/ecosystem/flagger

go 1.26.0

require github.com/fluxcd/flagger v1.41.0

require (
	go.yaml.in/yaml/v2 v2.4.2 // indirect
	go.yaml.in/yaml/v3 v3.0.0-00010101000000-000000000000 // indirect
	sigs.k8s.io/randfill v0.0.0-20250304075658-069ef1bbf016 // indirect
	sigs.k8s.io/structured-merge-diff/v6 v6.0.0-00010101000000-000000000000 // indirect
)

// As in integration/cluster/programs, so that what was compiled for Kubernetes is not compiled again.
replace (
	go.yaml.in/yaml/v2 => go.yaml.in/yaml/v2 v2.4.3
	go.yaml.in/yaml/v3 => go.yaml.in/yaml/v3 v3.0.4
	sigs.k8s.io/randfill => sigs.k8s.io/randfill v1.0.0
	sigs.k8s.io/structured-merge-diff/v6 => sigs.k8s.io/structured-merge-diff/v6 v6.3.3
)
