package conformance

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

var (
	ingressClass = flag.String("ingress-class", "ambit", "GatewayClass of the Gateways at the edge of the mesh")
	without      = flag.String("without", "", "extended features, with commas between them, that TestGateway does not declare")
	inMesh       = flag.Bool("backends-in-mesh", false, "the backends of Gateways are in the mesh, so that these reach them by tunnels")
)

// The class that the suite takes when none is said.
const defaultClass = "gateway-conformance"

// The core features of the profiles GATEWAY-HTTP, GATEWAY-GRPC, GATEWAY-TLS and GATEWAY-TCP, which the suite adds by itself.
var core = []features.FeatureName{
	features.SupportGateway,
	features.SupportReferenceGrant,
	features.SupportHTTPRoute,
	features.SupportGRPCRoute,
	features.SupportTLSRoute,
	features.SupportTCPRoute,
}

// The extended features that Gateways of class `ambit` are to have. Each is declared unless -without says otherwise, by name.
var extendedAtEdge = []features.FeatureName{
	features.SupportGatewayPort8080,
	features.SupportGatewayHTTPListenerIsolation,
	features.SupportGatewayInfrastructure,
	features.SupportGatewayHTTPSListenerDetectMisdirectedRequests,
	features.SupportHTTPRouteBackendRequestHeaderModification,
	features.SupportHTTPRouteQueryParamMatching,
	features.SupportHTTPRouteMethodMatching,
	features.SupportHTTPRouteResponseHeaderModification,
	features.SupportHTTPRoutePortRedirect,
	features.SupportHTTPRouteSchemeRedirect,
	features.SupportHTTPRoutePathRedirect,
	features.SupportHTTPRouteHostRewrite,
	features.SupportHTTPRoutePathRewrite,
	features.SupportHTTPRouteRequestMirror,
	features.SupportHTTPRouteRequestMultipleMirrors,
	features.SupportHTTPRouteRequestPercentageMirror,
	features.SupportHTTPRouteRequestTimeout,
	features.SupportHTTPRouteBackendTimeout,
	features.SupportHTTPRouteParentRefPort,
	features.SupportHTTPRouteBackendProtocolH2C,
	features.SupportHTTPRouteBackendProtocolWebSocket,
	features.SupportHTTPRouteNamedRouteRule,
	features.SupportHTTPRouteCORS,
	features.SupportHTTPRoute303RedirectStatusCode,
	features.SupportHTTPRoute307RedirectStatusCode,
	features.SupportHTTPRoute308RedirectStatusCode,
	features.SupportHTTPRouteRetry,
	features.SupportHTTPRouteRetryBackendTimeout,
	features.SupportHTTPRouteRetryConnectionError,
	features.SupportGRPCRouteNamedRouteRule,
	features.SupportTLSRouteModeTerminate,
	features.SupportTLSRouteModeMixed,
}

// TestGateway runs the profiles GATEWAY-HTTP, GATEWAY-GRPC, GATEWAY-TLS and GATEWAY-TCP against Gateways of class `ambit`. The suite asks them from
// here, at the addresses that they have from addresses_test.go.
func TestGateway(t *testing.T) {
	options := conformance.DefaultOptions(t)
	if options.GatewayClassName == defaultClass {
		options.GatewayClassName = *ingressClass
	}
	if len(options.ConformanceProfiles) == 0 {
		options.ConformanceProfiles = []suite.ConformanceProfileName{
			suite.GatewayHTTPConformanceProfileName,
			suite.GatewayGRPCConformanceProfileName,
			suite.GatewayTLSConformanceProfileName,
			suite.GatewayTCPConformanceProfileName,
		}
	}
	if len(options.SupportedFeatures) == 0 {
		declared, err := declaredAtEdge()
		require.NoError(t, err)
		options.SupportedFeatures = declared
	}
	if options.NamespaceLabels == nil && *inMesh {
		options.NamespaceLabels = map[string]string{"istio.io/dataplane-mode": "ambient"}
	}
	// The whole cluster is removed after it, or the namespaces by the next run.
	options.CleanupBaseResources = false
	if options.ReportOutputPath != "" {
		require.NoError(t, options.Implementation.Validate(), "a report has to say whose it is")
	}
	seen := &outcomes{names: sets.New[string]()}
	options.Hook = seen.add

	s, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	if options.ReportOutputPath != "" {
		t.Cleanup(func() { report(t, s, options.ReportOutputPath) })
	}
	giveAddresses(t, s)
	asked := atEdge(options.SupportedFeatures)
	require.NotEmpty(t, asked, "the suite has no tests for what is declared")
	s.Applier.ManifestFS = s.ManifestFS
	for _, name := range []string{"gateway-conformance-infra", "gateway-conformance-app-backend", "gateway-conformance-web-backend"} {
		remove(t, s.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	s.Setup(t, asked)
	if options.RunTest == "" && len(options.SkipTests) == 0 && !options.FailFast {
		// Tests that run beside each other do so when this function is over.
		t.Cleanup(func() {
			require.Len(t, seen.names, len(asked), "tests of Gateways did not run: %v", seen.names)
			require.Empty(t, seen.skipped, "tests of Gateways were skipped")
		})
	}
	seen.since = time.Now()
	require.NoError(t, s.Run(t, asked))
}

// The features of the profiles that are declared, less those of -without.
func declaredAtEdge() ([]features.FeatureName, error) {
	declared := slices.Clone(extendedAtEdge)
	for name := range strings.SplitSeq(*without, ",") {
		if name == "" {
			continue
		}
		at := slices.Index(declared, features.FeatureName(name))
		if at < 0 {
			return nil, fmt.Errorf("-without=%s: that is not declared", name)
		}
		declared = slices.Delete(declared, at, at+1)
	}
	return slices.Concat(core, declared), nil
}

// The tests that need nothing but what is declared. Each of the others would be reported as skipped.
func atEdge(declared []features.FeatureName) []suite.ConformanceTest {
	return slices.DeleteFunc(slices.Clone(tests.ConformanceTests), func(test suite.ConformanceTest) bool {
		unknown := func(feature features.FeatureName) bool { return !slices.Contains(declared, feature) }
		return len(test.Features) == 0 || slices.ContainsFunc(test.Features, unknown)
	})
}

func TestTestsAtTheEdgeAreThoseOfWhatIsDeclared(t *testing.T) {
	only := atEdge(core)
	require.NotEmpty(t, only)
	declared, err := declaredAtEdge()
	require.NoError(t, err)
	every := atEdge(declared)
	require.Greater(t, len(every), len(only), "extended features have tests")
	for _, test := range every {
		require.NotContains(t, test.Features, features.SupportMesh, test.ShortName)
	}
	known := features.SetsToNamesSet(
		features.GatewayExtendedFeatures,
		features.HTTPRouteExtendedFeatures,
		features.GRPCRouteExtendedFeatures,
		features.TLSRouteExtendedFeatures,
	)
	for _, feature := range extendedAtEdge {
		require.True(t, known.Has(feature), "%s is no extended feature of the profiles", feature)
	}
}
