package conformance

import (
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/utils/echo"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// What the suite's own routes must do beyond what the suite asks: its redirects lead somewhere, its rewrites arrive.
var stricter = []struct {
	routes string
	asked  []asked
}{
	{"tests/mesh/httproute-redirect-host-and-status.yaml", []asked{
		{path: "/hostname-redirect", status: 302, location: "http://example.org/hostname-redirect"},
		{path: "/hostname-redirect/a?b=c", status: 302, location: "http://example.org/hostname-redirect/a?b=c"},
		{path: "/host-and-status", status: 301, location: "http://example.org/host-and-status"},
	}},
	{"tests/mesh/httproute-redirect-path.yaml", []asked{
		{path: "/original-prefix/lemon", status: 302, location: "http://echo/replacement-prefix/lemon"},
		{path: "/original-prefix", status: 302, location: "http://echo/replacement-prefix"},
		{path: "/full/path/original", status: 302, location: "http://echo/full-path-replacement"},
		{path: "/path-and-host/lemon", status: 302, location: "http://example.org/replacement-prefix/lemon"},
		{path: "/path-and-status/lemon", status: 301, location: "http://echo/replacement-prefix/lemon"},
		{path: "/full-path-and-host/lemon", status: 302, location: "http://example.org/replacement-full"},
		{path: "/full-path-and-status/lemon", status: 301, location: "http://echo/replacement-full"},
	}},
	{"tests/mesh/httproute-redirect-port.yaml", []asked{
		{path: "/port", status: 302, location: "http://echo:8083/port"},
		{path: "/port-and-host", status: 302, location: "http://example.org:8083/port-and-host"},
		{path: "/port-and-status", status: 301, location: "http://echo:8083/port-and-status"},
		{path: "/port-and-host-and-status", status: 302, location: "http://example.org:8083/port-and-host-and-status"},
	}},
	{"tests/mesh/httproute-redirect-scheme.yaml", []asked{
		{path: "/scheme", status: 302, location: "https://echo/scheme"},
		{path: "/scheme-and-host", status: 302, location: "https://example.org/scheme-and-host"},
		{path: "/scheme-and-status", status: 301, location: "https://echo/scheme-and-status"},
		{path: "/scheme-and-host-and-status", status: 302, location: "https://example.org/scheme-and-host-and-status"},
	}},
	{"tests/mesh/httproute-303-redirect.yaml", []asked{{path: "/redirect", status: 303, location: "http://echo/redirect"}}},
	{"tests/mesh/httproute-307-redirect.yaml", []asked{{path: "/temporary", status: 307, location: "http://echo/temporary"}}},
	{"tests/mesh/httproute-308-redirect.yaml", []asked{{path: "/permanent", status: 308, location: "http://echo/permanent"}}},
	{"tests/mesh/httproute-rewrite-path.yaml", []asked{
		{path: "/prefix/one/two", status: 200, arrives: "/one/two"},
		{path: "/prefix/one", status: 200, arrives: "/one"},
		{path: "/prefix/one/", status: 200, arrives: "/one/"},
		{path: "/strip-prefix/three?four=five", status: 200, arrives: "/three?four=five"},
		{path: "/strip-prefix", status: 200, arrives: "/"},
		{path: "/full/one/two", status: 200, arrives: "/one"},
		{path: "/full/rewrite-path-and-modify-headers/test", status: 200, arrives: "/test"},
		{path: "/prefix/rewrite-path-and-modify-headers/one", status: 200, arrives: "/prefix/one"},
		{path: "/unmatched", status: 404},
	}},
}

// A request to the service echo, and what comes of it.
type asked struct {
	path     string
	status   int
	location string // of a redirect
	arrives  string // the path that the pod sees
}

// TestStricter runs the suite's routes once more and looks where the suite looks away: at Location, at paths that were rewritten, and at the
// routes' status.
func TestStricter(t *testing.T) {
	s := onMesh(t)
	client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
	for _, group := range stricter {
		t.Run(group.routes, func(t *testing.T) {
			s.Applier.MustApplyWithCleanup(t, s.Client, s.TimeoutConfig, group.routes, true)
			for _, one := range group.asked {
				t.Run(one.path, func(t *testing.T) { one.expect(t, client, s) })
			}
			routesSayThatTheyHold(t, s)
		})
	}
}

func (one asked) expect(t *testing.T, client echo.MeshPod, s *suite.ConformanceTestSuite) {
	expected := http.ExpectedResponse{
		Request:  http.Request{Host: "echo", Path: one.path, UnfollowRedirect: true},
		Response: http.Response{StatusCodes: []int{one.status}},
	}
	if one.location != "" {
		expected.Response.Headers = map[string]string{"Location": one.location}
	}
	http.AwaitConvergence(t, s.TimeoutConfig.RequiredConsecutiveSuccesses, s.TimeoutConfig.MaxTimeToConsistency, func(elapsed time.Duration) bool {
		_, response, err := client.CaptureRequestResponseAndCompare(t, expected)
		if err == nil && one.arrives != "" && response.URL != one.arrives {
			t.Logf("after %v the path arrived as %q, not as %q", elapsed, response.URL, one.arrives)
			return false
		}
		return err == nil
	})
}
