package watcher

import (
	"errors"
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"nfproxy/nft"
	"nfproxy/render"
)

// slicePort is a port of an EndpointSlice.
type slicePort struct {
	name     string
	protocol nft.Protocol
	port     uint16
}

// reduceServicePorts returns the ports of a Service that can be served. Names that the API server would not accept are
// rejected: names become part of comments and of map names.
func reduceServicePorts(api *corev1.Service, problems problemList) []render.Port {
	var have portList
	for i, p := range api.Spec.Ports {
		reduced, field, err := reducePort(p.Name, string(p.Protocol), p.Port)
		port := render.Port{Name: reduced.name, Protocol: reduced.protocol, Port: reduced.port}
		if err == nil && p.Port == 0 {
			field, err = "port", errors.New("0 is not a port number")
		}
		if errs := validation.IsDNS1123Label(p.Name); err == nil && p.Name != "" && len(errs) > 0 {
			field, err = "name", fmt.Errorf("%q is not a valid port name: %s", p.Name, errs[0])
		}
		if err == nil {
			field, err = have.checkUnique(port)
		}
		if err != nil {
			problems.add(fmt.Sprintf("spec.ports[%d].%s", i, field), err.Error())
			continue
		}
		if hasNodePorts(api) {
			if port.NodePort, err = have.nodePort(port.Protocol, p.NodePort); err != nil {
				problems.add(fmt.Sprintf("spec.ports[%d].nodePort", i), err.Error())
			}
		}
		have.add(port)
	}
	return have.list
}

// portList holds the ports of a Service that can be served. There can be tens of thousands, hence the maps.
type portList struct {
	list []render.Port
	// The ports by what has to be unique: the number, the node port and the name.
	numbers, nodePorts map[portNumber]render.Port
	names              map[string]render.Port
}

type portNumber struct {
	protocol nft.Protocol
	number   uint16
}

func (l *portList) add(p render.Port) {
	if l.list == nil {
		l.numbers, l.nodePorts, l.names = make(map[portNumber]render.Port), make(map[portNumber]render.Port), make(map[string]render.Port)
	}
	l.list = append(l.list, p)
	l.numbers[portNumber{p.Protocol, p.Port}], l.names[p.Name] = p, p
	if p.NodePort != 0 {
		l.nodePorts[portNumber{p.Protocol, p.NodePort}] = p
	}
}

// checkUnique returns an error if a port repeats the number or the name of a previous one. The name is what connects a port
// with the ports of EndpointSlices, so it has to be unique even among ports of different protocols, as the API server
// requires.
func (l *portList) checkUnique(port render.Port) (field string, err error) {
	if other, ok := l.numbers[portNumber{port.Protocol, port.Port}]; ok {
		return "port", fmt.Errorf("%d/%s is already used by port %q", port.Port, port.Protocol, other.Name)
	}
	if other, ok := l.names[port.Name]; ok {
		return "name", fmt.Errorf("port %d/%s already has the name %q", other.Port, other.Protocol, other.Name)
	}
	return "", nil
}

// hasNodePorts reports whether a Service is of a type with node ports. For other types the field has no effect.
func hasNodePorts(api *corev1.Service) bool {
	return api.Spec.Type == corev1.ServiceTypeNodePort || api.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// nodePort returns the node port, 0 if there is none or it cannot be used.
func (l *portList) nodePort(protocol nft.Protocol, number int32) (uint16, error) {
	if number < 0 || number > math.MaxUint16 {
		return 0, fmt.Errorf("%d is not a port number", number)
	}
	if other, ok := l.nodePorts[portNumber{protocol, uint16(number)}]; ok {
		return 0, fmt.Errorf("%d/%s is already used by port %q", number, protocol, other.Name)
	}
	return uint16(number), nil
}

// reducePort checks the protocol and the number of a port. The returned field is the one that err is about.
func reducePort(name, protocol string, number int32) (port slicePort, field string, err error) {
	proto, err := nft.ParseProtocol(protocol)
	if err != nil {
		return port, "protocol", err
	}
	if number < 0 || number > math.MaxUint16 {
		return port, "port", fmt.Errorf("%d is not a port number", number)
	}
	return slicePort{name: name, protocol: proto, port: uint16(number)}, "", nil
}
