module ambit/cluster/crds

go 1.22.0

require sigs.k8s.io/gateway-api v1.6.3
