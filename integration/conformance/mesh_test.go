// Package conformance runs the conformance suite of the Gateway API, unmodified, against a cluster with Ambit: the profiles MESH-HTTP and
// MESH-GRPC with every extended feature of the mesh. What the suite does not do itself is in waypoint_test.go: requests that routes decide on go
// through a waypoint, which somebody has to ask for.
package conformance

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// The extended features of the mesh profiles: all of them, by name, so that a new suite cannot add one unseen.
var extended = []features.FeatureName{
	features.SupportMeshClusterIPMatching,
	features.SupportMeshConsumerRoute,
	features.SupportMeshHTTPRouteBackendRequestHeaderModification,
	features.SupportMeshHTTPRouteNamedRouteRule,
	features.SupportMeshHTTPRouteQueryParamMatching,
	features.SupportMeshHTTPRouteRedirectPath,
	features.SupportMeshHTTPRouteRedirectPort,
	features.SupportMeshHTTPRouteRewritePath,
	features.SupportMeshHTTPRouteSchemeRedirect,
}

// Features of no mesh profile that tests of the mesh need: without them these tests would not run.
var uncounted = []features.FeatureName{
	features.SupportHTTPRoute303RedirectStatusCode,
	features.SupportHTTPRoute307RedirectStatusCode,
	features.SupportHTTPRoute308RedirectStatusCode,
	features.SupportHTTPRouteParentRefPort,
	features.SupportHTTPRouteResponseHeaderModification,
}

// TestMesh runs the suite. Its own flags (--run-test, --report-output, …) go before what is set here.
func TestMesh(t *testing.T) {
	every := features.SetsToNamesSet(features.MeshExtendedFeatures)
	require.ElementsMatch(t, every.UnsortedList(), extended, "the suite has other extended features of the mesh than are declared here")

	options := declared(t)
	if options.ReportOutputPath != "" {
		require.NoError(t, options.Implementation.Validate(), "a report has to say whose it is")
	}
	seen := &outcomes{names: sets.New[string]()}
	options.Hook = seen.add

	s, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	if options.ReportOutputPath != "" {
		// The suite counts until the tests' own clean-up is over.
		t.Cleanup(func() { report(t, s, options.ReportOutputPath) })
	}
	setUp(t, s)
	seen.since = time.Now()
	require.NoError(t, s.Run(t, mesh))
	if options.RunTest == "" && len(options.SkipTests) == 0 && !options.FailFast {
		require.Len(t, seen.names, len(mesh), "tests of the mesh did not run: %v", seen.names)
		require.Empty(t, seen.skipped, "tests of the mesh were skipped")
	}
}

// The suite's options with what Ambit declares.
func declared(t *testing.T) suite.ConformanceOptions {
	options := conformance.DefaultOptions(t)
	if len(options.ConformanceProfiles) == 0 {
		options.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	}
	if len(options.SupportedFeatures) == 0 {
		options.SupportedFeatures = slices.Concat(extended, uncounted)
	}
	if options.NamespaceLabels == nil {
		options.NamespaceLabels = map[string]string{"istio.io/dataplane-mode": "ambient"}
	}
	if *waypointClass == "" {
		// What fails need not take long.
		options.TimeoutConfig.MaxTimeToConsistency = 5 * time.Second
	}
	// All tests here use the same, which the next run makes anew.
	options.CleanupBaseResources = false
	return options
}

// The suite for tests of ours.
func onMesh(t *testing.T) *suite.ConformanceTestSuite {
	options := declared(t)
	options.RunTest = ""
	s, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	setUp(t, s)
	return s
}

// The tests of the mesh. Each of the others would be reported as skipped.
var mesh = slices.DeleteFunc(slices.Clone(tests.ConformanceTests), func(test suite.ConformanceTest) bool {
	return !slices.Contains(test.Features, features.SupportMesh)
})

// What became of the tests so far; told on standard error, where it stands alone.
type outcomes struct {
	mutex   sync.Mutex
	since   time.Time
	names   sets.Set[string]
	skipped []string
}

func (seen *outcomes) add(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
	seen.mutex.Lock()
	defer seen.mutex.Unlock()
	seen.names.Insert(test.ShortName)
	outcome := "passed"
	switch {
	case t.Failed():
		outcome = "FAILED"
	case t.Skipped():
		outcome = "skipped"
		seen.skipped = append(seen.skipped, test.ShortName)
	}
	fmt.Fprintf(os.Stderr, "%-7s %s, %.1f s\n", outcome, test.ShortName, time.Since(seen.since).Seconds())
	seen.since = time.Now()
}

func report(t *testing.T, s *suite.ConformanceTestSuite, path string) {
	report, err := s.Report()
	require.NoError(t, err)
	text, err := yaml.Marshal(report)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
}
